//! Which sources a source waits for.

use std::collections::{BTreeMap, BTreeSet};

/// What is known of a source that others may depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The sources that it depends on.
    pub depends_on: Vec<String>,
    /// Its newest commit is applied, without problems.
    pub ready: bool,
}

/// Why a source has to wait, if it has to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until another is ready.
    For(String),
    /// Until another exists.
    Missing(String),
    /// For ever: it depends on itself, by this way.
    Cycle(Vec<String>),
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::For(name) => write!(f, "waits for GitSource {name}, which is not ready"),
            Self::Missing(name) => {
                write!(
                    f,
                    "waits for GitSource {name}, which does not exist; make it, or take it out of dependsOn"
                )
            }
            Self::Cycle(way) => {
                write!(f, "depends on itself ({}); take one of them out of dependsOn", way.join(" → "))
            }
        }
    }
}

/// Why a source of a namespace has to wait. A cycle is said before anything else: waiting for it would never end.
pub fn wait(name: &str, sources: &BTreeMap<String, Node>) -> Option<Wait> {
    if let Some(way) = way_back(name, sources) {
        return Some(Wait::Cycle(way));
    }
    sources.get(name)?.depends_on.iter().find_map(|other| match sources.get(other) {
        None => Some(Wait::Missing(other.clone())),
        Some(node) if !node.ready => Some(Wait::For(other.clone())),
        Some(_) => None,
    })
}

/// The shortest way from a source to itself.
fn way_back(name: &str, sources: &BTreeMap<String, Node>) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut ways = std::collections::VecDeque::from([vec![name.to_owned()]]);
    while let Some(way) = ways.pop_front() {
        for next in
            way.last().and_then(|last| sources.get(last)).into_iter().flat_map(|node| &node.depends_on)
        {
            let longer = || way.iter().cloned().chain([next.clone()]).collect();
            if next == name {
                return Some(longer());
            }
            if seen.insert(next.clone()) {
                ways.push_back(longer());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(of: &[(&str, &[&str], bool)]) -> BTreeMap<String, Node> {
        of.iter()
            .map(|(name, depends_on, ready)| {
                let depends_on = depends_on.iter().map(|name| (*name).to_owned()).collect();
                ((*name).to_owned(), Node { depends_on, ready: *ready })
            })
            .collect()
    }

    #[test]
    fn a_source_waits_until_all_that_it_names_exist_and_are_ready() {
        let of = |base, infra| {
            sources(&[("app", &["base", "infra"], false), ("base", &[], base), ("infra", &[], infra)])
        };
        assert_eq!(wait("app", &of(true, true)), None);
        assert_eq!(wait("app", &of(true, false)), Some(Wait::For("infra".into())));
        assert_eq!(wait("base", &of(false, false)), None);
        let alone = sources(&[("app", &["base"], false)]);
        assert_eq!(wait("app", &alone), Some(Wait::Missing("base".into())));
    }

    /// Else two sources that name each other would wait without a word of why.
    #[test]
    fn a_cycle_is_named() {
        let ring =
            sources(&[("a", &["b"], true), ("b", &["c"], true), ("c", &["a"], true), ("d", &["a"], true)]);
        let way = ["a", "b", "c", "a"].map(str::to_owned).to_vec();
        assert_eq!(wait("a", &ring), Some(Wait::Cycle(way)));
        assert_eq!(wait("d", &ring), None, "who depends on a cycle waits for its members only");
        assert!(wait("a", &ring).unwrap().to_string().contains("a → b → c → a"));
    }
}
