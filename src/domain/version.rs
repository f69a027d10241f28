//! Versions: ranges of them, and the highest of a repository's tags that lies in one.

use std::{fmt, str::FromStr};

use semver::{Comparator, Version, VersionReq};

/// A range of versions, such as `>=1.2.0 <2.0.0`, `1.4.x` or `~1.4 || ^2.1`.
///
/// It is written as Flux and Helm (Masterminds' Go library) write it: all that stand side by side must hold, `||` is "or", a bare
/// version means itself and a bare `1.4` any `1.4.x`. Comparing is Cargo's: a pre-release is in a range only if the range names
/// a pre-release of the same `major.minor.patch`. `!=` and `1.2 - 1.4` are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    text: String,
    alternatives: Vec<VersionReq>,
}

/// Why a text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write it like \">=1.2.0 <2.0.0\", \"1.4.x\" or \"~1.4 || ^2.1\"")]
pub struct InvalidRange(String);

impl Range {
    /// The tag of the highest version in the range. Tags are versions with or without a `v` before them; what is no whole
    /// version (`v1.2`, `latest`) is passed over.
    pub fn highest<'a>(&self, tags: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        let versions = tags.into_iter().filter_map(|tag| Some((version(tag)?, tag)));
        versions.filter(|(version, _)| self.contains(version)).max().map(|(_, tag)| tag)
    }

    fn contains(&self, version: &Version) -> bool {
        self.alternatives.iter().any(|all| all.matches(version))
    }
}

fn version(tag: &str) -> Option<Version> {
    Version::parse(tag.strip_prefix('v').unwrap_or(tag)).ok()
}

impl FromStr for Range {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let alternatives = text.split("||").map(alternative).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), alternatives })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const OPERATORS: [char; 5] = ['<', '>', '=', '~', '^'];

fn alternative(text: &str) -> Result<VersionReq, InvalidRange> {
    let mut comparators = Vec::new();
    let mut operator = String::new();
    let mut words = text.split([' ', ',', '\t']).filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        return Err(InvalidRange("there is nothing where a version was expected".to_owned()));
    }
    for word in words {
        let bare = word.trim_start_matches(OPERATORS);
        operator.push_str(&word[..word.len() - bare.len()]);
        if bare.is_empty() {
            continue; // The version is the next word.
        }
        comparators.extend(comparator(&std::mem::take(&mut operator), bare)?);
    }
    if !operator.is_empty() {
        return Err(InvalidRange(format!("no version follows {operator}")));
    }
    Ok(VersionReq { comparators })
}

/// None: any version.
fn comparator(operator: &str, version: &str) -> Result<Option<Comparator>, InvalidRange> {
    let bare = version.strip_prefix('v').unwrap_or(version);
    if operator.is_empty() && matches!(bare, "*" | "x" | "X") {
        return Ok(None);
    }
    let wild = bare.split('.').any(|part| matches!(part, "*" | "x" | "X"));
    let operator = if operator.is_empty() && !wild { "=" } else { operator };
    let parsed = Comparator::parse(&format!("{operator}{bare}"));
    parsed.map(Some).map_err(|error| InvalidRange(format!("{operator}{version:?} is no version: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn highest<'a>(range: &str, tags: &[&'a str]) -> Option<&'a str> {
        range
            .parse::<Range>()
            .unwrap_or_else(|error| panic!("{range}: {error}"))
            .highest(tags.iter().copied())
    }

    const TAGS: [&str; 11] = [
        "v1.2.0",
        "1.2.9",
        "v1.10.0",
        "v1.9.3",
        "v2.0.0-rc.1",
        "v2.0.0",
        "2.1.0-beta",
        "latest",
        "v3",
        "v0.3.1",
        "v0.3.9",
    ];

    /// Numbers, not letters, decide; and the wrong one would be rolled out.
    #[test]
    fn the_highest_version_in_a_range_is_found() {
        for (range, tag) in [
            ("*", "v2.0.0"),
            (">=1.2.0 <2.0.0", "v1.10.0"),
            (">=1.2.0, <1.10", "v1.9.3"),
            (">= 1.2.0 < 1.3", "1.2.9"),
            ("1.x", "v1.10.0"),
            ("1.2.*", "1.2.9"),
            ("1.2", "1.2.9"),
            ("1.2.0", "v1.2.0"),
            ("=v1.9.3", "v1.9.3"),
            ("~1.9", "v1.9.3"),
            ("^0.3.2", "v0.3.9"),
            ("^0.3.2 || ~1.2", "1.2.9"),
            ("<1", "v0.3.9"),
        ] {
            assert_eq!(highest(range, &TAGS), Some(tag), "{range}");
        }
        assert_eq!(highest(">=3", &TAGS), None, "v3 is no whole version");
        assert_eq!(highest("1.2.1", &TAGS), None, "a bare version means itself");
        assert_eq!(highest("*", &[]), None);
    }

    /// A pre-release must not be rolled out because it is "higher".
    #[test]
    fn pre_releases_are_in_a_range_only_if_it_names_one() {
        assert_eq!(highest(">=2.0.0", &TAGS), Some("v2.0.0"));
        assert_eq!(highest(">=2.0.0-rc.0", &["v2.0.0-rc.1", "v2.1.0-rc.1"]), Some("v2.0.0-rc.1"));
        assert_eq!(highest(">=2.0.0-rc.0", &TAGS), Some("v2.0.0"));
        assert_eq!(highest("2.1.0-beta", &TAGS), Some("2.1.0-beta"));
        assert_eq!(highest(">=2.0.0-0", &["v2.0.0-alpha", "v1.0.0"]), Some("v2.0.0-alpha"));
    }

    /// Of tags of one version always the same is taken.
    #[test]
    fn the_order_of_tags_does_not_matter() {
        assert_eq!(highest("1.0.0", &["1.0.0", "v1.0.0"]), highest("1.0.0", &["v1.0.0", "1.0.0"]));
    }

    /// What cannot be read must not be read as something else.
    #[test]
    fn what_is_no_range_is_refused_with_what_is_wrong() {
        for (text, told) in [
            ("", "nothing"),
            ("1.0 ||", "nothing"),
            ("!=1.2.0", "!="),
            ("1.2 - 1.4", "no version"),
            (">=", "no version follows >="),
            ("> < 1.2", "no version"),
            ("main", "main"),
            ("1.2.3.4", "1.2.3.4"),
        ] {
            let error = text.parse::<Range>().unwrap_err().to_string();
            assert!(error.contains(told) && error.contains("write it like"), "{text}: {error}");
        }
    }
}
