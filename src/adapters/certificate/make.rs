//! Makes a certificate and an authority for it.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use secrecy::SecretString;

use super::{CURRENT, Error, Pair};
use crate::domain::certificate::Life;

/// A certificate for these DNS names and IP addresses, and the authority that clients must trust. The authority's key is
/// gone when this returns: nothing can be signed with it any more.
///
/// # Errors
/// A name that cannot stand in a certificate.
pub fn make(names: &[String], life: Life, now: Timestamp) -> Result<Pair, Error> {
    sign(names, life, now)
        .map_err(|error| Error::Making { names: names.join(", "), why: error.to_string() })
        .and_then(|(authority, chain, key)| Pair::read(authority, chain, key, CURRENT))
}

fn sign(
    names: &[String],
    life: Life,
    now: Timestamp,
) -> Result<(String, String, SecretString), rcgen::Error> {
    let mut params = valid(CertificateParams::default(), life);
    // Each has a name of its own: clients look for issuers by name.
    params.distinguished_name.push(DnType::CommonName, format!("countersign webhook authority {now}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let mut params = valid(CertificateParams::new(names)?, life);
    params.distinguished_name.push(DnType::CommonName, "countersign webhook");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((issuer.pem(), certificate.pem(), SecretString::from(key.serialize_pem())))
}

fn valid(mut params: CertificateParams, life: Life) -> CertificateParams {
    let at = |time: Timestamp| {
        let seconds = u64::try_from(time.as_second()).unwrap_or_default();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    params.not_before = at(life.begins);
    params.not_after = at(life.ends);
    params
}
