//! A length of time as people write it in a spec: `30s`, `1m30s`, `720h`, `90d`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a [`Duration`] looks like, as a regular expression: each unit at most once, the longest first.
pub const PATTERN: &str = "^([0-9]{1,6}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$";

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
const MAX_DIGITS: usize = 6;

/// A length of time in whole seconds.
///
/// Go's own format stops at hours; approvals and scans live for days, so `d` (24 hours, whatever the calendar
/// says) is allowed. Fractions, signs and sub-second units are not: nothing here is decided that finely.
///
/// ```
/// # use countersign::domain::duration::Duration;
/// let wait: Duration = "1m30s".parse().unwrap();
/// assert_eq!(wait.as_secs(), 90);
/// assert_eq!(wait.to_string(), "1m30s");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(u64);

impl Duration {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The length in seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// Whether this is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// Why a text is no [`Duration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a duration: write whole days, hours, minutes and seconds in this order, as in 90d, 720h, 1m30s"
)]
pub struct InvalidDuration(String);

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self).ok_or_else(|| InvalidDuration(text.chars().take(64).collect()))
    }
}

fn parse(text: &str) -> Option<u64> {
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        if digits == 0 || digits > MAX_DIGITS {
            return None;
        }
        let (number, tail) = rest.split_at(digits);
        let unit = tail.chars().next()?;
        // The iterator is not rewound: a unit that came before, or a longer one, is not found any more.
        let (_, seconds) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*seconds)?)?;
        rest = &tail[unit.len_utf8()..];
    }
    (!text.is_empty()).then_some(total)
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        // Hours are the longest unit written: 720h is what everything else in Kubernetes would show.
        for (name, seconds) in &UNITS[1..] {
            let count = rest / seconds;
            rest %= seconds;
            if count > 0 {
                write!(f, "{count}{name}")?;
            }
        }
        Ok(())
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        Self::from_secs(duration.0)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, seconds) in [
            ("0s", 0),
            ("30s", 30),
            ("1m30s", 90),
            ("720h", 2_592_000),
            ("90d", 7_776_000),
            ("1d2h3m4s", 93_784),
        ] {
            assert_eq!(text.parse(), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn refuses_what_could_be_misread() {
        for text in [
            "", "30", "s", "-1s", "+1s", "1.5h", "1s1m", "1m1m", "1h 1m", " 1s", "1w", "1ms", "1000000s",
            "１s", "1S",
        ] {
            assert!(text.parse::<Duration>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for seconds in [0, 1, 59, 60, 61, 3_600, 86_399, 86_400, 2_592_000] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }

    proptest::proptest! {
        /// One object that the API server took and we cannot read blinds the operator for all of its kind.
        #[test]
        fn what_the_pattern_takes_can_be_read(text in PATTERN.trim_start_matches('^').trim_end_matches('$')) {
            proptest::prop_assume!(!text.is_empty());
            proptest::prop_assert!(text.parse::<Duration>().is_ok(), "{text}");
        }
    }
}
