//! All approvals and revocations, folded. The order of arrival never changes the result.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    evidence::Platform,
    image::{Digest, PinnedImage, Repository, Tag},
    lineage::Lineage,
};

/// Where an object of ours counts: an object in the root namespace counts for the whole cluster, any other for its own
/// namespace only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The whole cluster.
    Root,
    /// One namespace.
    Namespace(String),
}

impl Scope {
    /// The scope of an object in `namespace`.
    pub fn of(namespace: &str, root: &str) -> Self {
        if namespace == root { Self::Root } else { Self::Namespace(namespace.to_owned()) }
    }

    /// Whether an object of this scope counts in `namespace`.
    pub fn reaches(&self, namespace: &str) -> bool {
        match self {
            Self::Root => true,
            Self::Namespace(own) => own == namespace,
        }
    }
}

/// What an image is approved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To run.
    Application,
    /// To build on; it approves nothing to run. Its revocation counts as any other.
    Base,
}

/// The namespace and name of an `ApprovedImage`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    /// Where the object stands.
    pub namespace: String,
    /// What it is called.
    pub name: String,
}

/// One `ApprovedImage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which object it is.
    pub key: RecordKey,
    /// Where it counts.
    pub scope: Scope,
    /// The approved repository.
    pub repository: Repository,
    /// The approved digest.
    pub digest: Digest,
    /// The tag that it claims.
    pub tag: Option<Tag>,
    /// What it approves the image for.
    pub role: Role,
    /// In force from here on.
    pub approved_at: Timestamp,
    /// In force until here.
    pub expires_at: Option<Timestamp>,
    /// Why the digest is revoked, if it is.
    pub revocation: Option<String>,
    /// A person let the revocation go: the record claims nothing any more.
    pub forgotten: bool,
}

/// What the ledger says of a pinned image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A record in force approves it.
    Approved,
    /// Its digest is revoked; the reason.
    Revoked(String),
    /// It was approved, and no record is in force any more; since when.
    Expired(Timestamp),
    /// No record approves it.
    Unlisted,
}

/// Which records count as approvals for somebody who asks.
#[derive(Clone, Copy, Debug)]
pub struct Acceptance<'a> {
    /// The namespace the image is to run in.
    pub namespace: &'a str,
    /// Whether records of the root namespace count.
    pub from_root: bool,
    /// Whether records of `namespace` itself count.
    pub from_namespace: bool,
    /// How long an approval lasts at most.
    pub max_age: Option<Duration>,
}

impl Acceptance<'_> {
    /// Whether a record approves its image to run.
    fn accepts(&self, record: &Record, now: Timestamp) -> bool {
        record.role == Role::Application && self.counts(record, now)
    }

    /// Whether a record counts, for whatever it approves its image for.
    fn counts(&self, record: &Record, now: Timestamp) -> bool {
        let from = match &record.scope {
            Scope::Root => self.from_root,
            Scope::Namespace(own) => self.from_namespace && own == self.namespace,
        };
        from && !record.forgotten && record.approved_at <= now
    }

    /// When an accepted record ends by itself.
    pub fn end(&self, record: &Record) -> Option<Timestamp> {
        let aged = self.max_age.and_then(|age| record.approved_at.checked_add(age).ok());
        [record.expires_at, aged].into_iter().flatten().min()
    }
}

/// What a tag stands for: the newest record that claims it, whatever its standing.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The record.
    pub record: &'a Record,
    /// What is to be said of its image.
    pub standing: Standing,
}

/// All records, indexed by digest and by tag.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    records: BTreeMap<RecordKey, Record>,
    by_digest: BTreeMap<Digest, BTreeSet<RecordKey>>,
    by_repository: BTreeMap<Repository, BTreeSet<RecordKey>>,
    by_tag: BTreeMap<(Repository, Tag), BTreeSet<RecordKey>>,
    bases: BTreeSet<RecordKey>,
    lineage: Lineage,
}

impl Ledger {
    /// Adds a record, or replaces the one of the same key. Answers whether anything changed.
    pub fn insert(&mut self, record: Record) -> bool {
        if self.records.get(&record.key) == Some(&record) {
            return false;
        }
        self.remove(&record.key.clone());
        self.by_digest.entry(record.digest.clone()).or_default().insert(record.key.clone());
        self.by_repository.entry(record.repository.clone()).or_default().insert(record.key.clone());
        if let Some(tag) = &record.tag {
            let claimed = (record.repository.clone(), tag.clone());
            self.by_tag.entry(claimed).or_default().insert(record.key.clone());
        }
        if record.role == Role::Base {
            self.bases.insert(record.key.clone());
        }
        self.records.insert(record.key.clone(), record);
        true
    }

    /// Removes a record; answers with it.
    pub fn remove(&mut self, key: &RecordKey) -> Option<Record> {
        let record = self.records.remove(key)?;
        self.bases.remove(key);
        remove_from(&mut self.by_digest, &record.digest, key);
        remove_from(&mut self.by_repository, &record.repository, key);
        if let Some(tag) = &record.tag {
            remove_from(&mut self.by_tag, &(record.repository.clone(), tag.clone()), key);
        }
        Some(record)
    }

    /// The record of a key.
    pub fn get(&self, key: &RecordKey) -> Option<&Record> {
        self.records.get(key)
    }

    /// All records, by key.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The records with role Base, by key, whatever their standing.
    pub fn bases(&self) -> impl Iterator<Item = &Record> {
        self.bases.iter().filter_map(|key| self.records.get(key))
    }

    /// The records with role Base that are in force for somebody who asks.
    pub fn bases_in_force(
        &self,
        acceptance: &Acceptance<'_>,
        now: Timestamp,
    ) -> impl Iterator<Item = &Record> {
        self.bases().filter(move |base| {
            acceptance.counts(base, now)
                && acceptance.end(base).is_none_or(|end| now < end)
                && self.revocation(&base.digest, acceptance.namespace).is_none()
        })
    }

    /// What a digest is made of, by its registry; answers whether that is news.
    pub fn see_contents(&mut self, digest: &Digest, platforms: &[Platform]) -> bool {
        self.lineage.see(digest, platforms)
    }

    /// Why a digest is revoked in a namespace, if it is: by the root namespace or by its own, in every repository, beating
    /// every approval. It is revoked itself, or with the index that holds it or a manifest that it holds, or by what it is built
    /// on, as far as that is known.
    pub fn revocation(&self, digest: &Digest, namespace: &str) -> Option<String> {
        let together = self.revoked_with(digest, namespace);
        together.map(str::to_owned).or_else(|| {
            let mut bases = self.bases().filter(|base| self.lineage.is_built_on(digest, &base.digest));
            bases.find_map(|base| {
                let why = self.revoked_with(&base.digest, namespace)?;
                let (repository, digest) = (&base.repository, base.digest.short());
                Some(format!("it is built on {repository}@{digest}, which is revoked: {why}"))
            })
        })
    }

    /// Why a digest, the index that holds it or a manifest that it holds is revoked.
    fn revoked_with(&self, digest: &Digest, namespace: &str) -> Option<&str> {
        std::iter::once(digest).chain(self.lineage.kin(digest)).find_map(|digest| {
            self.of_digest(digest)
                .filter(|record| record.scope.reaches(namespace) && !record.forgotten)
                .find_map(|record| record.revocation.as_deref())
        })
    }

    /// What is to be said of a pinned image.
    pub fn standing(&self, image: &PinnedImage, acceptance: &Acceptance<'_>, now: Timestamp) -> Standing {
        if let Some(reason) = self.revocation(&image.digest, acceptance.namespace) {
            return Standing::Revoked(reason);
        }
        let mut ended: Option<Timestamp> = None;
        for record in self.approving(&image.digest) {
            if record.repository != image.repository || !acceptance.accepts(record, now) {
                continue;
            }
            match acceptance.end(record) {
                Some(end) if end <= now => ended = ended.max(Some(end)),
                Some(_) | None => return Standing::Approved,
            }
        }
        ended.map_or(Standing::Unlisted, Standing::Expired)
    }

    /// What a tag stands for: the record with the newest `approvedAt` that claims it (ties by name), in force or not.
    pub fn resolve(
        &self,
        repository: &Repository,
        tag: &Tag,
        acceptance: &Acceptance<'_>,
        now: Timestamp,
    ) -> Option<Claim<'_>> {
        let record = self
            .by_tag
            .get(&(repository.clone(), tag.clone()))?
            .iter()
            .filter_map(|key| self.records.get(key))
            .filter(|record| acceptance.accepts(record, now))
            .max_by_key(|record| (record.approved_at, &record.key.name, &record.key.namespace))?;
        let standing = match (self.revocation(&record.digest, acceptance.namespace), acceptance.end(record)) {
            (Some(reason), _) => Standing::Revoked(reason),
            (None, Some(end)) if end <= now => Standing::Expired(end),
            (None, _) => Standing::Approved,
        };
        Some(Claim { record, standing })
    }

    /// The newest `approvedAt` among the records that approve an image.
    pub fn approved_at(
        &self,
        image: &PinnedImage,
        acceptance: &Acceptance<'_>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.approving(&image.digest)
            .filter(|record| record.repository == image.repository && acceptance.accepts(record, now))
            .map(|record| record.approved_at)
            .max()
    }

    /// The next moment at which something changes by itself for images of these repositories: a record comes into force
    /// or ends.
    pub fn next_change(
        &self,
        repositories: &BTreeSet<Repository>,
        acceptance: &Acceptance<'_>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        repositories
            .iter()
            .filter_map(|repository| self.by_repository.get(repository))
            .flatten()
            .filter_map(|key| self.records.get(key))
            .filter(|record| record.scope.reaches(acceptance.namespace))
            .flat_map(|record| [Some(record.approved_at), acceptance.end(record)])
            .flatten()
            .filter(|moment| *moment > now)
            .min()
    }

    /// The records of a digest, and of the indexes that hold it: an index approves its manifests, never the other way round.
    fn approving<'a>(&'a self, digest: &'a Digest) -> impl Iterator<Item = &'a Record> {
        std::iter::once(digest).chain(self.lineage.indexes(digest)).flat_map(|digest| self.of_digest(digest))
    }

    fn of_digest(&self, digest: &Digest) -> impl Iterator<Item = &Record> {
        self.by_digest.get(digest).into_iter().flatten().filter_map(|key| self.records.get(key))
    }
}

impl FromIterator<Record> for Ledger {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut ledger = Self::default();
        for record in records {
            ledger.insert(record);
        }
        ledger
    }
}

fn remove_from<K: Ord>(index: &mut BTreeMap<K, BTreeSet<RecordKey>>, at: &K, key: &RecordKey) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    pub(crate) fn digest(n: u8) -> Digest {
        format!("sha256:{}", format!("{n:02x}").repeat(32)).parse().unwrap()
    }

    /// A record `name` in the root namespace: repository `registry.example/shop/cart`, digest `n`, tag `tag`, approved at `n` seconds.
    pub(crate) fn record(name: &str, n: u8, tag: &str) -> Record {
        Record {
            key: RecordKey { namespace: "root".into(), name: name.into() },
            scope: Scope::Root,
            repository: "registry.example/shop/cart".parse().unwrap(),
            digest: digest(n),
            tag: Some(tag.parse().unwrap()),
            role: Role::Application,
            approved_at: at(i64::from(n)),
            expires_at: None,
            revocation: None,
            forgotten: false,
        }
    }

    fn anywhere(namespace: &str) -> Acceptance<'_> {
        Acceptance { namespace, from_root: true, from_namespace: true, max_age: None }
    }

    fn image(n: u8) -> PinnedImage {
        format!("registry.example/shop/cart@{}", digest(n)).parse().unwrap()
    }

    fn resolve(ledger: &Ledger, tag: &str, now: Timestamp) -> Option<(Digest, Standing)> {
        let repository = "registry.example/shop/cart".parse().unwrap();
        ledger
            .resolve(&repository, &tag.parse().unwrap(), &anywhere("shop"), now)
            .map(|claim| (claim.record.digest.clone(), claim.standing))
    }

    #[test]
    fn a_revocation_reaches_every_repository_and_beats_every_approval() {
        let mut elsewhere = record("elsewhere", 1, "9");
        elsewhere.repository = "other.example/x".parse().unwrap();
        elsewhere.revocation = Some("CVE".into());
        let ledger: Ledger = [record("a", 1, "1"), elsewhere].into_iter().collect();
        assert_eq!(ledger.standing(&image(1), &anywhere("shop"), at(100)), Standing::Revoked("CVE".into()));
    }

    #[test]
    fn a_tenants_revocation_counts_for_its_own_namespace_only_also_where_approvals_count_from_root_only() {
        let mut tenants = record("t", 1, "1");
        tenants.scope = Scope::Namespace("shop".into());
        tenants.key.namespace = "shop".into();
        tenants.revocation = Some("ours".into());
        let ledger: Ledger = [record("a", 1, "1"), tenants].into_iter().collect();
        let root_only =
            |namespace| Acceptance { namespace, from_root: true, from_namespace: false, max_age: None };
        assert_eq!(ledger.standing(&image(1), &root_only("shop"), at(100)), Standing::Revoked("ours".into()));
        assert_eq!(ledger.standing(&image(1), &root_only("bank"), at(100)), Standing::Approved);
    }

    #[test]
    fn a_tag_stands_for_the_newest_claim_whatever_its_standing() {
        let mut newer = record("b", 2, "1");
        newer.expires_at = Some(at(50));
        let ledger: Ledger = [record("a", 1, "1"), newer.clone()].into_iter().collect();
        assert_eq!(resolve(&ledger, "1", at(10)), Some((digest(2), Standing::Approved)));
        assert_eq!(resolve(&ledger, "1", at(60)), Some((digest(2), Standing::Expired(at(50)))));
        newer.revocation = Some("bad".into());
        let ledger: Ledger = [record("a", 1, "1"), newer].into_iter().collect();
        assert_eq!(resolve(&ledger, "1", at(10)), Some((digest(2), Standing::Revoked("bad".into()))));
        assert_eq!(
            resolve(&ledger, "1", at(1)),
            Some((digest(1), Standing::Approved)),
            "from the future claims nothing"
        );
        assert_eq!(resolve(&ledger, "2", at(10)), None);
    }

    #[test]
    fn expiry_and_age_end_an_approval_and_a_base_approves_nothing_to_run() {
        let mut base = record("base", 3, "3");
        base.role = Role::Base;
        let ledger: Ledger = [record("a", 1, "1"), base].into_iter().collect();
        let aged = Acceptance { max_age: Some(Duration::from_secs(30)), ..anywhere("shop") };
        assert_eq!(ledger.standing(&image(1), &aged, at(31)), Standing::Expired(at(31)));
        assert_eq!(ledger.standing(&image(1), &aged, at(30)), Standing::Approved);
        assert_eq!(ledger.standing(&image(3), &anywhere("shop"), at(31)), Standing::Unlisted);
        let repositories = ["registry.example/shop/cart".parse().unwrap()].into();
        assert_eq!(ledger.next_change(&repositories, &aged, at(10)), Some(at(31)));
    }

    /// If this fails, one approved platform lets the others in, or a revoked one leaves its index running.
    #[test]
    fn an_index_approves_its_manifests_and_is_revoked_with_any_of_them() {
        let platform = |n| Platform {
            name: format!("linux/{n}"),
            manifest: digest(n),
            config: digest(n),
            diff_ids: vec![digest(n)],
            created: None,
        };
        let mut ledger: Ledger = [record("index", 1, "1")].into_iter().collect();
        ledger.see_contents(&digest(1), &[platform(2), platform(3)]);
        let standing = |ledger: &Ledger, n| ledger.standing(&image(n), &anywhere("shop"), at(100));
        assert_eq!(
            [1, 2, 3, 4].map(|n| standing(&ledger, n) == Standing::Approved),
            [true, true, true, false]
        );
        assert_eq!(ledger.approved_at(&image(2), &anywhere("shop"), at(100)), Some(at(1)));
        let mut child: Ledger = [record("child", 2, "2")].into_iter().collect();
        child.see_contents(&digest(1), &[platform(2), platform(3)]);
        assert_eq!([1, 2, 3].map(|n| standing(&child, n) == Standing::Approved), [false, true, false]);
        let mut revoked = record("revoked", 2, "2");
        revoked.revocation = Some("CVE".into());
        ledger.insert(revoked);
        let is_revoked = |ledger: &Ledger, n| matches!(standing(ledger, n), Standing::Revoked(_));
        assert_eq!([1, 2, 3].map(|n| is_revoked(&ledger, n)), [true, true, false], "its sibling is not");
    }

    #[test]
    fn a_forgotten_revocation_claims_nothing() {
        let mut gone = record("a", 1, "1");
        gone.revocation = Some("bad".into());
        gone.forgotten = true;
        let ledger: Ledger = [gone].into_iter().collect();
        assert_eq!(ledger.standing(&image(1), &anywhere("shop"), at(100)), Standing::Unlisted);
        assert_eq!(resolve(&ledger, "1", at(100)), None);
    }

    pub(crate) fn any_record() -> impl Strategy<Value = Record> {
        (0u8..4, 0u8..4, 0u8..3, any::<bool>(), any::<bool>(), proptest::option::of(0i64..20)).prop_map(
            |(name, n, tag, revoked, tenant, expires)| {
                let mut r = record(&format!("r{name}"), n, &format!("t{tag}"));
                if tenant {
                    r.scope = Scope::Namespace("shop".into());
                    r.key.namespace = "shop".into();
                }
                r.revocation = revoked.then(|| "bad".into());
                r.expires_at = expires.map(at);
                r
            },
        )
    }

    proptest! {
        /// A cluster that replays its objects in another order must not judge differently.
        #[test]
        fn the_order_of_arrival_never_changes_the_ledger(records in prop::collection::vec(any_record(), 0..8), seed in any::<u64>()) {
            // The last write of a key wins, so keep one per key.
            let mut unique: Vec<Record> = records.into_iter().map(|r| (r.key.clone(), r)).collect::<BTreeMap<_, _>>().into_values().collect();
            let ledger: Ledger = unique.iter().cloned().collect();
            let mut state = seed;
            for i in (1..unique.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                unique.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
            }
            let mut shuffled: Ledger = unique.iter().cloned().collect();
            prop_assert_eq!(&ledger, &shuffled);
            for record in &unique {
                shuffled.remove(&record.key);
            }
            prop_assert_eq!(shuffled, Ledger::default());
        }

        #[test]
        fn revocation_wins_in_any_order(records in prop::collection::vec(any_record(), 0..8), now in 0i64..30) {
            let ledger: Ledger = records.into_iter().collect();
            for record in ledger.records().filter(|r| r.revocation.is_some() && r.scope.reaches("shop")) {
                let standing = ledger.standing(&PinnedImage { repository: record.repository.clone(), tag: None, digest: record.digest.clone() }, &anywhere("shop"), at(now));
                prop_assert!(matches!(standing, Standing::Revoked(_)));
            }
        }
    }
}
