//! How far a source reaches: in whose name it applies, and into which namespaces.

/// How far a source reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The service account of the source's own namespace that it applies as; `None`: the operator's own rights.
    pub account: Option<String>,
    /// The one namespace that it may write to.
    pub only: Option<String>,
    /// The namespace that all its objects are put into, whatever they say.
    pub target: Option<String>,
}

/// Why a source may not apply anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The word for conditions.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
}

/// What a source asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// `spec.url`
    pub url: &'a str,
    /// `spec.serviceAccountName`
    pub account: Option<&'a str>,
    /// `spec.targetNamespace`
    pub target: Option<&'a str>,
}

/// How far a source reaches. In the root namespace it may name a service account of it, or applies as `applier` where the
/// operator was given one. Elsewhere it is a tenant's: it must name a service account of its own namespace, writes only there,
/// and reads nothing of the operator's machine.
pub fn reach(asked: &Asked<'_>, root: &str, applier: Option<&str>) -> Result<Reach, Refusal> {
    let own = |name: &str| name.to_owned();
    if asked.namespace == root {
        let account = asked.account.or(applier).map(own);
        return Ok(Reach { account, only: None, target: asked.target.map(own) });
    }
    let refuse = |reason, message| Err(Refusal { reason, message });
    let Some(account) = asked.account else {
        return refuse(
            "ServiceAccountRequired",
            format!(
                "outside of {root} a source applies as a service account of its own namespace; name one in spec.serviceAccountName"
            ),
        );
    };
    if asked.url.starts_with('/') || asked.url.starts_with("file:") {
        return refuse(
            "LocalUrl",
            format!(
                "outside of {root} no source reads from the operator's machine; give the URL of a git server"
            ),
        );
    }
    if let Some(target) = asked.target.filter(|target| *target != asked.namespace) {
        return refuse(
            "OutsideNamespace",
            format!(
                "outside of {root} a source writes to its own namespace only; take spec.targetNamespace ({target}) out"
            ),
        );
    }
    let namespace = asked.namespace.to_owned();
    Ok(Reach { account: Some(own(account)), only: Some(namespace.clone()), target: asked.target.map(own) })
}

/// Where an object goes, as far as that is decided by the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where it says itself.
    AsSaid,
    /// Into this namespace.
    Into(String),
    /// Nowhere; why.
    Refused(String),
}

impl Reach {
    /// Where an object goes that says `namespace` (empty: none), of a kind whose objects stand in namespaces, or in none.
    pub fn place(&self, namespace: &str, namespaced: bool) -> Place {
        if !namespaced {
            return match &self.only {
                Some(only) => Place::Refused(format!(
                    "objects of this kind belong to the whole cluster, and this source writes to the namespace {only} only"
                )),
                None if namespace.is_empty() => Place::AsSaid,
                None => Place::Refused(format!(
                    "metadata.namespace is {namespace}, but objects of this kind stand in no namespace; remove it"
                )),
            };
        }
        match (&self.target, &self.only) {
            (Some(target), _) if target == namespace => Place::AsSaid,
            (Some(target), _) => Place::Into(target.clone()),
            (None, Some(only)) if namespace.is_empty() => Place::Into(only.clone()),
            (None, Some(only)) if only != namespace => Place::Refused(format!(
                "it says the namespace {namespace}, and this source writes to {only} only; correct it, or have the owners of {namespace} make a source there"
            )),
            (None, None) if namespace.is_empty() => Place::Refused(
                "metadata.namespace is missing; say in which namespace the object belongs, or name one for all objects in \
                 spec.targetNamespace of the source"
                    .to_owned(),
            ),
            (None, Some(_) | None) => Place::AsSaid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: Asked<'_> =
        Asked { namespace: "team-a", url: "https://git.example/a", account: Some("deployer"), target: None };

    fn refused(asked: &Asked<'_>) -> &'static str {
        reach(asked, "root", Some("applier")).unwrap_err().reason
    }

    /// Else a tenant's source applies with the operator's rights, reads its disk, or writes to others' namespaces.
    #[test]
    fn a_source_outside_the_root_namespace_reaches_its_own_namespace_as_its_own_account() {
        let reach_of = |asked: &Asked<'_>| reach(asked, "root", Some("applier")).unwrap();
        let own = Reach { account: Some("deployer".into()), only: Some("team-a".into()), target: None };
        assert_eq!(reach_of(&TENANT), own);
        assert_eq!(refused(&Asked { account: None, ..TENANT }), "ServiceAccountRequired");
        for url in ["/srv/git", "file:///srv/git"] {
            assert_eq!(refused(&Asked { url, ..TENANT }), "LocalUrl");
        }
        assert_eq!(refused(&Asked { target: Some("team-b"), ..TENANT }), "OutsideNamespace");
        assert_eq!(reach_of(&Asked { target: Some("team-a"), ..TENANT }).only.as_deref(), Some("team-a"));
        let root = Asked { namespace: "root", account: None, ..TENANT };
        assert_eq!(reach_of(&root).account.as_deref(), Some("applier"));
        assert_eq!(reach(&root, "root", None).unwrap().account, None);
        assert_eq!(reach_of(&Asked { account: Some("mine"), ..root }).account.as_deref(), Some("mine"));
    }

    #[test]
    fn objects_go_where_the_source_may_write() {
        let tenant = reach(&TENANT, "root", None).unwrap();
        assert_eq!(tenant.place("team-a", true), Place::AsSaid);
        assert_eq!(tenant.place("", true), Place::Into("team-a".into()));
        assert!(matches!(tenant.place("team-b", true), Place::Refused(_)));
        assert!(matches!(tenant.place("", false), Place::Refused(_)));
        let moved = Reach { account: None, only: None, target: Some("staging".into()) };
        assert_eq!(moved.place("prod", true), Place::Into("staging".into()));
        assert_eq!(moved.place("", true), Place::Into("staging".into()));
        assert_eq!(moved.place("", false), Place::AsSaid);
        let free = Reach { account: None, only: None, target: None };
        assert_eq!((free.place("x", true), free.place("", false)), (Place::AsSaid, Place::AsSaid));
        // Neither names an object that there could be.
        for (reach, namespace, namespaced, says) in [
            (&free, "", true, "is missing"),
            (&free, "x", false, "remove it"),
            (&moved, "x", false, "remove it"),
        ] {
            let place = reach.place(namespace, namespaced);
            assert!(matches!(&place, Place::Refused(why) if why.contains(says)), "{place:?}");
        }
    }
}
