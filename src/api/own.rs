//! A request about an object of ours: read, and judged by `domain::admission::own`.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ApprovedImage, GitSource, ImagePolicy};
use crate::domain::{
    admission::own::{Verdict, approval, history, policy, source},
    policy::Policy,
    reach,
};

/// A request about an object of ours.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its kind.
    pub kind: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Empty, or `status`.
    pub sub_resource: &'a str,
    /// The object as it is to be.
    pub object: &'a Value,
    /// The object as it is; `None`: it is to be created.
    pub before: Option<&'a Value>,
    /// The operator asks, as the API server found out.
    pub by_operator: bool,
    /// The root namespace.
    pub root: &'a str,
    /// The policies that cover its namespace; in the root namespace all.
    pub policies: &'a [&'a Policy],
}

/// The verdict on a request about an object of ours. What changes nothing that it says (a finalizer, an annotation) passes.
pub fn review_own(asked: &Asked<'_>) -> Verdict {
    let same_spec = asked.before.is_some_and(|before| before.get("spec") == asked.object.get("spec"));
    let is_status = asked.sub_resource == "status";
    if asked.kind == "ReleaseHistory" {
        return history(asked.by_operator, is_status || !same_spec);
    }
    if is_status || same_spec {
        return Verdict::default();
    }
    let verdict = match asked.kind {
        "ApprovedImage" => review_approval(asked),
        "ImagePolicy" => review_policy(asked),
        "GitSource" => review_source(asked),
        _ => Ok(Verdict::default()),
    };
    verdict.unwrap_or_else(Verdict::denied)
}

fn review_approval(asked: &Asked<'_>) -> Result<Verdict, String> {
    let object: ApprovedImage = read(asked)?;
    let record = object.record(asked.root).map_err(|error| error.to_string())?;
    let was_revoked = asked.before.and_then(|before| before.pointer("/spec/revocation"));
    Ok(approval(&record, was_revoked.is_some_and(|revocation| !revocation.is_null()), asked.policies))
}

fn review_policy(asked: &Asked<'_>) -> Result<Verdict, String> {
    let object: ImagePolicy = read(asked)?;
    object.policy(asked.root).map_err(|error| error.to_string())?;
    Ok(policy(asked.namespace == asked.root, asked.root, &object.root_only_fields()))
}

fn review_source(asked: &Asked<'_>) -> Result<Verdict, String> {
    let object: GitSource = read(asked)?;
    let reaches = reach::Asked {
        namespace: asked.namespace,
        url: &object.spec.url,
        account: object.spec.service_account_name.as_deref(),
        target: object.spec.target_namespace.as_deref(),
    };
    Ok(source(&reaches, asked.root))
}

/// The object, in the namespace that the request names.
fn read<K: DeserializeOwned + kube::Resource>(asked: &Asked<'_>) -> Result<K, String> {
    let mut object = K::deserialize(asked.object)
        .map_err(|error| format!("this {} cannot be read: {error}", asked.kind))?;
    object.meta_mut().namespace = Some(asked.namespace.to_owned());
    Ok(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked<'a>(kind: &'a str, object: &'a Value, before: Option<&'a Value>) -> Asked<'a> {
        Asked {
            kind,
            namespace: "shop",
            sub_resource: "",
            object,
            before,
            by_operator: false,
            root: "countersign-system",
            policies: &[],
        }
    }

    fn object(kind: &str, spec: &Value) -> Value {
        json!({"apiVersion": "countersign.dev/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec})
    }

    fn denied(asked: &Asked<'_>) -> String {
        review_own(asked).denial.unwrap_or_default()
    }

    /// If this fails, a tenant's policy that says more than it may is taken without a word, or nothing can be cleaned up.
    #[test]
    fn what_the_schema_cannot_say_is_denied_by_name_and_what_says_nothing_new_passes() {
        let policy = object(
            "ImagePolicy",
            &json!({"mode": "Enforce", "rollback": {"onRevocation": "None"}, "admission": {"pinPods": false}}),
        );
        let said = denied(&asked("ImagePolicy", &policy, None));
        assert!(
            said.starts_with("spec.rollback, spec.admission: ") && said.contains("countersign-system"),
            "{said}"
        );
        let root = Asked { namespace: "countersign-system", ..asked("ImagePolicy", &policy, None) };
        assert_eq!(review_own(&root), Verdict::default());
        assert_eq!(
            review_own(&asked("ImagePolicy", &policy, Some(&policy))),
            Verdict::default(),
            "a finalizer"
        );
        let odd = object("ImagePolicy", &json!({"mode": "Enforce", "match": {"images": ["a/{b"]}}));
        assert!(denied(&asked("ImagePolicy", &odd, None)).starts_with("spec.match.images[0]: "));
        let unreadable = object("ImagePolicy", &json!({"mode": "Maybe"}));
        assert!(denied(&asked("ImagePolicy", &unreadable, None)).contains("cannot be read"));
        let source = object("GitSource", &json!({"url": "https://git.example/a", "ref": {"branch": "main"}}));
        assert!(denied(&asked("GitSource", &source, None)).contains("spec.serviceAccountName"));
    }

    #[test]
    fn approvals_keep_their_revocation_and_are_warned_about_where_none_accepts_them() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let plain =
            object("ApprovedImage", &json!({"image": "registry.example/shop/cart", "digest": digest}));
        let verdict = review_own(&asked("ApprovedImage", &plain, None));
        assert!(verdict.denial.is_none() && verdict.warnings[0].contains("namespace shop"), "{verdict:?}");
        let mut revoked = plain.clone();
        revoked["spec"]["revocation"] = json!({"reason": "bad"});
        assert_eq!(review_own(&asked("ApprovedImage", &revoked, Some(&plain))), Verdict::default());
        assert!(denied(&asked("ApprovedImage", &plain, Some(&revoked))).contains("not taken back"));
    }

    /// If this fails, whoever may patch a status says where a workload may go back to.
    #[test]
    fn of_a_history_others_change_its_annotations_only() {
        let before = object(
            "ReleaseHistory",
            &json!({"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "cart"}}),
        );
        let mut annotated = before.clone();
        annotated["metadata"]["annotations"] = json!({"countersign.dev/retry": "1"});
        assert_eq!(review_own(&asked("ReleaseHistory", &annotated, Some(&before))), Verdict::default());
        for asked in [
            asked("ReleaseHistory", &before, None),
            Asked { sub_resource: "status", ..asked("ReleaseHistory", &before, Some(&before)) },
        ] {
            assert!(denied(&asked).contains("only the operator"));
            assert_eq!(review_own(&Asked { by_operator: true, ..asked }), Verdict::default());
        }
    }
}
