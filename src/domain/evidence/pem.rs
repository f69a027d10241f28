//! PEM: the text around public keys and certificates.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::Fingerprint;

/// A public key, as `openssl` and cosign write it.
pub const PUBLIC_KEY: &str = "PUBLIC KEY";
/// A certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";

const MAX_BYTES: usize = 256 * 1024;
const MAX_BLOCKS: usize = 64;

/// The DER of every block, all of which must have this label; at least one.
///
/// # Errors
/// When the text is too large, has no block, or has anything else in it. A private key is named as such.
pub fn blocks(text: &str, label: &str) -> Result<Vec<Vec<u8>>, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("PEM of more than {MAX_BYTES} bytes"));
    }
    let mut blocks = Vec::new();
    let mut inside: Option<String> = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(begun) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            if begun.contains("PRIVATE") {
                return Err("this is a private key; give the public one, and replace the key".to_owned());
            }
            if begun != label || inside.is_some() {
                return Err(format!("expected a block of {label}, found {begun:?}"));
            }
            inside = Some(String::new());
        } else if let Some(ended) = line.strip_prefix("-----END ") {
            let body = inside.take().filter(|_| ended.strip_suffix("-----") == Some(label));
            let body = body.ok_or_else(|| format!("a block of {label} does not end as it began"))?;
            blocks.push(der(&body)?);
        } else if let Some(body) = &mut inside {
            body.push_str(line);
        } else {
            return Err(format!("text outside of the blocks of {label}"));
        }
        if blocks.len() > MAX_BLOCKS {
            return Err(format!("more than {MAX_BLOCKS} blocks"));
        }
    }
    if inside.is_some() || blocks.is_empty() {
        return Err(format!("no complete block of {label}: -----BEGIN {label}-----"));
    }
    Ok(blocks)
}

/// The fingerprints of every block.
///
/// # Errors
/// As [`blocks`].
pub fn prints(text: &str, label: &str) -> Result<BTreeSet<Fingerprint>, String> {
    Ok(blocks(text, label)?.iter().map(|der| Fingerprint::of(der)).collect())
}

/// One whole DER sequence, in its shortest form: two texts of one key must not be two keys.
fn der(body: &str) -> Result<Vec<u8>, String> {
    let der = STANDARD.decode(body).map_err(|_| "a block is no base64".to_owned())?;
    let length = match der.as_slice() {
        [0x30, short @ 0..=0x7f, ..] => Some(2 + usize::from(*short)),
        [0x30, 0x81, long @ 0x80..=0xff, ..] => Some(3 + usize::from(*long)),
        [0x30, 0x82, high @ 1..=0xff, low, ..] => Some(4 + usize::from(*high) * 256 + usize::from(*low)),
        _ => None,
    };
    if length == Some(der.len()) { Ok(der) } else { Err("a block holds no DER sequence".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn pem(label: &str, byte: u8) -> String {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode([0x30, 2, byte, byte])
        )
    }

    /// If this fails, a policy names a key and nobody knows which.
    #[test]
    fn blocks_are_read_whole_or_not_at_all() {
        let two = pem(CERTIFICATE, 1) + &pem(CERTIFICATE, 2);
        assert_eq!(blocks(&two, CERTIFICATE).unwrap(), [[0x30, 2, 1, 1], [0x30, 2, 2, 2]]);
        assert_eq!(prints(&pem(PUBLIC_KEY, 1).replace('\n', "\r\n"), PUBLIC_KEY).unwrap().len(), 1);
        for (bad, why) in [
            (String::new(), "no complete block"),
            (pem(CERTIFICATE, 1), "found \"CERTIFICATE\""),
            (pem("EC PRIVATE KEY", 1), "private key"),
            (format!("x\n{}", pem(PUBLIC_KEY, 1)), "outside"),
            (pem(PUBLIC_KEY, 1).replace("END PUBLIC", "END"), "does not end"),
            ("-----BEGIN PUBLIC KEY-----\nMAIBAQ==\n".to_owned(), "no complete block"),
            ("-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----".to_owned(), "base64"),
            ("-----BEGIN PUBLIC KEY-----\nMAIBAQA=\n-----END PUBLIC KEY-----".to_owned(), "DER"),
            (" ".repeat(MAX_BYTES + 1), "more than"),
        ] {
            let told = blocks(&bad, PUBLIC_KEY).unwrap_err();
            assert!(told.contains(why), "{told}: {bad}");
        }
    }
}
