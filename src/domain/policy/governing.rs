//! All policies, and which of them govern each namespace: kept, as every admission review asks for it.

use std::{collections::BTreeMap, sync::Arc};

use super::{Namespace, Policy};

/// Namespace and name of a policy.
type Key = (String, String);

/// All policies that can be read.
#[derive(Debug, Default)]
pub struct Policies {
    all: BTreeMap<Key, Arc<Policy>>,
    /// The namespaces that are known, each with its policies in the order of their keys.
    namespaces: BTreeMap<String, (Namespace, Vec<Arc<Policy>>)>,
}

impl Policies {
    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.all.values().map(AsRef::as_ref)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether there is one of this namespace and name.
    pub fn contains(&self, key: &Key) -> bool {
        self.all.contains_key(key)
    }

    /// A policy as it is now; answers whether that is news.
    pub fn insert(&mut self, policy: Policy) -> bool {
        if self.all.get(&policy.key).is_some_and(|known| **known == policy) {
            return false;
        }
        let policy = Arc::new(policy);
        self.remove(&policy.key);
        for (namespace, governing) in self.namespaces.values_mut() {
            if policy.covers_namespace(namespace) {
                let at = governing.partition_point(|other| other.key < policy.key);
                governing.insert(at, Arc::clone(&policy));
            }
        }
        self.all.insert(policy.key.clone(), policy);
        true
    }

    /// A policy is gone; answers whether it was known.
    pub fn remove(&mut self, key: &Key) -> bool {
        for (_, governing) in self.namespaces.values_mut() {
            governing.retain(|policy| policy.key != *key);
        }
        self.all.remove(key).is_some()
    }

    /// A namespace as it is now.
    pub fn see_namespace(&mut self, namespace: Namespace) {
        let governing = self.all.values().filter(|policy| policy.covers_namespace(&namespace)).cloned();
        let governing = governing.collect();
        self.namespaces.insert(namespace.name.clone(), (namespace, governing));
    }

    /// A namespace is gone.
    pub fn forget_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// The policies that govern a namespace, in the order of their keys. One that is not known may have any labels.
    pub fn governing(&self, name: &str) -> Vec<&Policy> {
        if let Some((_, governing)) = self.namespaces.get(name) {
            return governing.iter().map(AsRef::as_ref).collect();
        }
        let unknown = Namespace { name: name.to_owned(), labels: None };
        self.iter().filter(|policy| policy.covers_namespace(&unknown)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        ledger::Scope,
        policy::{Mode, Operator, Requirement, Selector},
    };

    #[derive(Clone, Debug)]
    enum Step {
        Policy(Box<Policy>),
        PolicyGone(Key),
        Namespace(Namespace),
        NamespaceGone(String),
    }

    fn key(n: u8) -> Key {
        ("root".to_owned(), n.to_string())
    }

    fn is_of_team(team: String) -> Requirement {
        Requirement { key: "team".to_owned(), operator: Operator::In, values: [team].into() }
    }

    fn policy() -> impl Strategy<Value = Policy> {
        let scope = prop_oneof![Just(Scope::Root), "[ab]".prop_map(Scope::Namespace)];
        (0..4_u8, scope, prop::option::of("[xy]"), prop::option::of("[abc]")).prop_map(
            |(n, scope, label, excluded)| Policy {
                key: key(n),
                scope,
                mode: Mode::Enforce,
                images: Vec::new(),
                namespaces: Selector(label.into_iter().map(is_of_team).collect()),
                exclude_images: Vec::new(),
                exclude_namespaces: excluded.into_iter().collect(),
                sources: None,
                require_digest: false,
                approval: None,
                gates: Vec::new(),
                approves: false,
                pull_secrets: BTreeSet::new(),
                on_gate_failure: None,
                on_revocation: None,
                on_failed_rollout: None,
                healthy_for: None,
                pin_pods: None,
            },
        )
    }

    fn namespace() -> impl Strategy<Value = Namespace> {
        ("[abc]", prop::option::of("[xy]")).prop_map(|(name, label)| Namespace {
            name,
            labels: Some(label.into_iter().map(|value| ("team".to_owned(), value)).collect()),
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => policy().prop_map(|policy| Step::Policy(Box::new(policy))),
            1 => (0..4_u8).prop_map(|n| Step::PolicyGone(key(n))),
            2 => namespace().prop_map(Step::Namespace),
            1 => "[abc]".prop_map(Step::NamespaceGone),
        ]
    }

    proptest! {
        /// If this fails, a policy governs what it should not, or not what it should.
        #[test]
        fn whatever_came_in_whatever_order_each_namespace_has_the_policies_that_cover_it(
            steps in prop::collection::vec(step(), 0..24)
        ) {
            let mut kept = Policies::default();
            let mut policies: BTreeMap<Key, Policy> = BTreeMap::new();
            let mut namespaces: BTreeMap<String, Namespace> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Policy(policy) => {
                        let policy = *policy;
                        let news = policies.insert(policy.key.clone(), policy.clone()) != Some(policy.clone());
                        prop_assert_eq!(kept.insert(policy), news);
                    }
                    Step::PolicyGone(key) => {
                        prop_assert_eq!(kept.remove(&key), policies.remove(&key).is_some());
                    }
                    Step::Namespace(namespace) => {
                        namespaces.insert(namespace.name.clone(), namespace.clone());
                        kept.see_namespace(namespace);
                    }
                    Step::NamespaceGone(name) => {
                        namespaces.remove(&name);
                        kept.forget_namespace(&name);
                    }
                }
                for name in ["a", "b", "c"] {
                    let unknown = Namespace { name: name.to_owned(), labels: None };
                    let namespace = namespaces.get(name).unwrap_or(&unknown);
                    let covering: Vec<&Policy> =
                        policies.values().filter(|policy| policy.covers_namespace(namespace)).collect();
                    prop_assert_eq!(kept.governing(name), covering);
                }
            }
        }
    }
}
