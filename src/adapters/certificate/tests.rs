use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::SignedDuration;
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::{store::tests::round_trip, *};
use crate::domain::certificate::Terms;

fn now() -> Timestamp {
    "2026-11-25T13:00:00Z".parse().unwrap()
}

fn pair(names: &[&str]) -> Pair {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    make(&names, Terms::default().life_from(now()), now()).unwrap()
}

fn fits(pair: &Pair, name: &str) -> bool {
    pair.fits(&[name.to_owned()])
}

#[test]
fn a_certificate_is_made_for_its_names_and_its_life() {
    let pair = pair(&["countersign.system.svc", "127.0.0.1", "::1"]);
    for name in ["countersign.system.svc", "127.0.0.1", "::1"] {
        assert!(fits(&pair, name), "{name}");
    }
    for name in ["countersign.system", "x.countersign.system.svc", "127.0.0.2", "", "a b"] {
        assert!(!fits(&pair, name), "{name}");
    }
    assert!(!pair.fits(&["127.0.0.1".into(), "other.example".into()]), "all names count");
    assert_eq!(pair.certificate().life(), Terms::default().life_from(now()));
}

#[test]
fn a_name_that_no_certificate_can_have_is_an_error_that_names_it() {
    let life = Terms::default().life_from(now());
    let error = make(&["größe.example".to_owned()], life, now()).unwrap_err();
    assert!(error.to_string().contains("größe.example"), "{error}");
}

/// A certificate that its authority did not sign is refused by everybody who trusts that one.
#[test]
fn an_authority_that_signed_something_else_does_not_fit() {
    let (one, other) = (pair(&["a.example"]), pair(&["a.example"]));
    let mixed = Pair { authority: other.authority.clone(), ..one.clone() };
    assert!(fits(&one, "a.example") && !fits(&mixed, "a.example"));
}

/// A `{:?}` in a log line is how keys get out.
#[test]
fn no_key_is_printed() {
    let pair = pair(&["a.example"]);
    let key = pair.key.expose_secret().to_owned();
    let lines: Vec<&str> = key.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(!lines.is_empty());
    let wrong = |key: &str| Certificate::read(pair.chain.as_bytes(), &key.into(), CURRENT).unwrap_err();
    let shelf = Shelf { current: Some(pair.clone()), ..Shelf::default() };
    let printed = [
        format!("{pair:?} {:?} {shelf:?}", pair.certificate()),
        format!("{:?}", wrong(&key.replace("BEGIN", "BEGAN"))),
        format!("{:?}", wrong(&key.replacen('A', "\u{fffd}", 1))),
        wrong(&self::pair(&["a.example"]).key.expose_secret().replace("PRIVATE", "PUBLIC")).to_string(),
    ];
    for text in printed {
        assert!(lines.iter().all(|line| !text.contains(line)), "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_by_the_part() {
    let (one, other) = (pair(&["a.example"]), pair(&["a.example"]));
    let read = |chain: &str, key: &SecretString| Certificate::read(chain.as_bytes(), key, NEXT).unwrap_err();
    assert_eq!(read("", &one.key), Error::NoCertificate("next-tls.crt"));
    assert_eq!(read(&one.chain.replace("MII", "M!I"), &one.key), Error::NoCertificate("next-tls.crt"));
    assert_eq!(read(&one.chain, &"".into()), Error::NoKey("next-tls.key"));
    assert_eq!(read(&one.chain, &one.chain.as_str().into()), Error::NoKey("next-tls.key"));
    let mismatch = Error::Mismatch { certificate: "next-tls.crt", key: "next-tls.key" };
    assert_eq!(read(&one.chain, &other.key), mismatch);
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(read(nonsense, &one.key), Error::Malformed("next-tls.crt"));
}

#[test]
fn what_is_stored_is_read_back() {
    let shelf = Shelf {
        current: Some(pair(&["a.example"])),
        next: Some(pair(&["a.example"])),
        former: Some(Former { authority: pair(&["a.example"]).authority, since: now() }),
    };
    let read = round_trip(&shelf, |_| {});
    assert_eq!((read.unreadable.as_slice(), read.version.as_str()), (&[][..], "7"));
    assert_eq!(read.shelf.bundle(), shelf.bundle());
    assert_eq!(shelf.bundle().unwrap().matches("BEGIN").count(), 3);
    let parts = |pair: Option<Pair>| pair.map(|pair| (pair.chain, pair.key.expose_secret().to_owned()));
    assert_eq!(parts(read.shelf.current), parts(shelf.current));
    assert_eq!(parts(read.shelf.next), parts(shelf.next));
    assert_eq!(read.shelf.former.unwrap().since, now());

    let read = round_trip(&Shelf::default(), |_| {});
    assert!(read.unreadable.is_empty() && read.shelf.bundle().is_none());
}

/// One part that somebody broke must not take the others with it.
#[test]
fn what_cannot_be_read_does_not_count_and_is_named() {
    let shelf = Shelf { current: Some(pair(&["a.example"])), next: Some(pair(&["a.example"])), former: None };
    for (key, value, named) in [
        ("next-tls.key", "", Error::NoKey("next-tls.key")),
        ("next-ca.crt", "Zm9v", Error::NoCertificate("next-ca.crt")),
        ("next-tls.crt", "no base64", Error::NoCertificate("next-tls.crt")),
        ("next-tls.crt", "/w==", Error::NoCertificate("next-tls.crt")),
    ] {
        let read = round_trip(&shelf, |data| data[key] = value.into());
        assert_eq!(read.unreadable, [named]);
        assert!(read.shelf.current.is_some() && read.shelf.next.is_none());
    }
}

/// As the kubelet does it: both files, but not at once for who reads in between.
#[tokio::test]
async fn a_directory_is_read_again_when_it_changed() {
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &str| fs::write(directory.path().join(name), content).unwrap();
    let mut mounted = Directory::new(directory.path().to_owned());
    let missing = mounted.look().await.unwrap_err().to_string();
    assert!(missing.contains("tls.crt"), "{missing}");

    let (one, other) = (pair(&["a.example"]), pair(&["a.example"]));
    put("tls.crt", &one.chain);
    put("tls.key", one.key.expose_secret());
    let first = mounted.look().await.unwrap().unwrap();
    assert_eq!((first.certificate.life(), first.authority), (one.certificate.life, None));
    assert!(mounted.look().await.unwrap().is_none(), "nothing changed");

    put("tls.crt", &other.chain);
    let error = mounted.look().await.unwrap_err();
    assert!(matches!(error, Unusable::Invalid { why: Error::Mismatch { .. }, .. }), "{error}");
    mounted.look().await.unwrap_err();
    put("tls.key", other.key.expose_secret());
    put("ca.crt", &other.authority);
    let second = mounted.look().await.unwrap().unwrap();
    assert_eq!(second.certificate.certified().cert, other.certificate.certified().cert);
    assert_eq!(second.authority, Some(other.authority.clone()));

    put("ca.crt", &"x".repeat(300_000));
    let error = mounted.look().await.unwrap_err().to_string();
    assert!(error.contains("ca.crt is larger than"), "{error}");
}

#[test]
fn the_life_is_to_the_second() {
    let life = Life { begins: now(), ends: now() + SignedDuration::from_secs(4321) };
    let pair = make(&["a.example".to_owned()], life, now()).unwrap();
    assert_eq!(pair.certificate().life(), life);
}

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
        let life = life_of(&certificate(begins, ends));
        assert_eq!(life, Some(Life { begins: at(expected.0), ends: at(expected.1) }));
    }
    let never = life_of(&certificate((2026, 1, 1), (9999, 12, 31))).unwrap();
    assert_eq!(never.ends, Timestamp::MAX);
}

/// A certificate of OpenSSL: with another algorithm, a long issuer, and times to the second.
#[test]
fn a_certificate_of_another_program_is_read() {
    let pem = include_str!("../../../tests/fixtures/certificates/openssl.pem");
    let content: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(content).unwrap();
    let life = life_of(&der).unwrap();
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
        prop_assert_eq!(life_of(&der[..cut % der.len()]), None);
        let at = at % der.len();
        der[at] = byte;
        let _ = life_of(&der);
    }
}
