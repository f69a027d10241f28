use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;

fn certificate(begins: (i32, u8, u8), ends: (i32, u8, u8)) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.not_before = date_time_ymd(begins.0, begins.1, begins.2);
    params.not_after = date_time_ymd(ends.0, ends.1, ends.2);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// Both ways to write a time, and the way to write "never". If this fails, a certificate runs out unseen.
#[test]
fn the_validity_is_read_as_it_was_written() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    for (begins, ends, expected) in [
        ((1999, 12, 31), (2049, 12, 31), ("1999-12-31T00:00:00Z", "2049-12-31T00:00:00Z")),
        ((2049, 12, 31), (2050, 1, 1), ("2049-12-31T00:00:00Z", "2050-01-01T00:00:00Z")),
        ((1950, 1, 1), (2100, 2, 28), ("1950-01-01T00:00:00Z", "2100-02-28T00:00:00Z")),
    ] {
        let life = validity(&certificate(begins, ends));
        assert_eq!(life, Some(Life { begins: at(expected.0), ends: at(expected.1) }));
    }
    let never = validity(&certificate((2026, 1, 1), (9999, 12, 31))).unwrap();
    assert_eq!(never.ends, Timestamp::MAX);
}

/// A certificate of OpenSSL: with another algorithm, a long issuer, and times to the second.
#[test]
fn a_certificate_of_another_program_is_read() {
    let pem = include_str!("../../../../tests/fixtures/certificates/openssl.pem");
    let content: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(content).unwrap();
    let life = validity(&der).unwrap();
    assert_eq!(
        (life.begins.to_string(), life.ends.to_string()),
        ("2026-11-25T13:22:52Z".to_owned(), "2027-12-30T13:22:52Z".to_owned())
    );
}

proptest! {
    /// What an administrator mounts may be anything.
    #[test]
    fn nothing_that_is_broken_panics(at in 0usize..400, byte: u8, cut in 0usize..400) {
        let mut der = certificate((2026, 1, 1), (2027, 1, 1));
        prop_assert_eq!(validity(&der[..cut % der.len()]), None);
        let at = at % der.len();
        der[at] = byte;
        let _ = validity(&der);
    }
}
