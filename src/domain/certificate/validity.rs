//! The validity of an X.509 certificate, and nothing else of it: it is the one thing that no crate in use tells.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use super::Life;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When a certificate (DER) is valid, if it can be read so far.
pub fn validity(mut der: &[u8]) -> Option<Life> {
    let mut certificate = sequence(&mut der)?;
    let mut signed = sequence(&mut certificate)?;
    let mut serial = element(&mut signed)?;
    // The version stands before the serial number, or is left out.
    if serial.0 == VERSION {
        serial = element(&mut signed)?;
    }
    if serial.0 != INTEGER {
        return None;
    }
    let _algorithm = sequence(&mut signed)?;
    let _issuer = sequence(&mut signed)?;
    let mut validity = sequence(&mut signed)?;
    let (begins, ends) = (time(&mut validity)?, time(&mut validity)?);
    validity.is_empty().then_some(Life { begins, ends })
}

fn sequence<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    element(input).filter(|(tag, _)| *tag == SEQUENCE).map(|(_, content)| content)
}

/// Takes the first element off: its tag and its content.
fn element<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let [tag, first, rest @ ..] = *input else { return None };
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        // So many bytes of length follow; none would mean that the end is marked, which DER forbids.
        long @ 0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *input = rest;
    Some((*tag, content))
}

fn time(input: &mut &[u8]) -> Option<Timestamp> {
    let (tag, content) = element(input)?;
    let text = std::str::from_utf8(content).ok().filter(|text| text.is_ascii())?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME if text.len() == 12 => {
            let year: i16 = digits(&text[..2])?;
            // RFC 5280, 4.1.2.5.1.
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        GENERALIZED_TIME if text.len() == 14 => (digits(&text[..4])?, &text[4..]),
        _ => return None,
    };
    let part = |at: usize| digits::<i8>(&rest[at..at + 2]);
    let date = DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0).ok()?;
    // The end of the year 9999 says "never", and is past the last moment of the library.
    Some(date.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp()))
}

fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
