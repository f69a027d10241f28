//! A team's source under the rights of the base, with what the guide for platform engineers says and nothing else.

use std::{collections::BTreeSet, path::Path};

use anyhow::ensure;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Namespace,
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{client_of, rights};
use crate::{
    controlplane::{AuditEvent, ControlPlane, eventually},
    installed::{api_of, name_of, operator_as_installed},
    support::{
        operator::ROOT,
        repo::{GitHttp, Repo},
        scene::{SOON, Scene, ready},
    },
};

/// The namespace, account and source that the guide names.
const TEAM: &str = "team-a";
const ACCOUNT: &str = "deployer";
const IMPERSONATES: &str = "countersign-impersonates";

/// The objects in the YAML blocks of the guide.
fn guide() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guides/tenants.md");
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let parse = |block: &str| {
        let parsed =
            countersign::domain::manifest::parse("tenants.md", block.as_bytes(), &Default::default());
        assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
        parsed.objects.into_iter().map(|object| object.value().clone()).collect::<Vec<_>>()
    };
    blocks.flat_map(parse).collect()
}

/// The team's repository, and what the platform engineer made for it.
struct Team<'a> {
    plane: &'a ControlPlane,
    scene: Scene,
    repo: Repo,
    impersonation: Vec<Value>,
}

impl Team<'_> {
    fn source(&self) -> Api<DynamicObject> {
        self.scene.of("countersign.dev/v1alpha1", "GitSource", "gitsources", TEAM)
    }

    async fn apply(&self, object: &Value) {
        let params = PatchParams { field_manager: Some("kubectl".to_owned()), ..PatchParams::default() };
        api_of(self.plane, object).patch(name_of(object), &params, &Patch::Apply(object)).await.unwrap();
    }

    /// The team names an image and pushes.
    async fn names(&self, n: u8) {
        self.repo.write("cart.yaml", &self.scene.workload("Deployment", "cart", &self.scene.tag(n)));
        self.repo.commit(&format!("run 1.{n}"));
        self.looks().await;
    }

    async fn looks(&self) {
        let stamp = format!("{:?}", std::time::SystemTime::now());
        let asked = json!({"metadata": {"annotations": {"countersign.dev/reconcile-requested-at": stamp}}});
        self.source().patch(TEAM, &PatchParams::default(), &Patch::Merge(&asked)).await.unwrap();
    }

    /// Waits until Ready of the source has a reason; answers with its message.
    async fn source_says(&self, reason: &str) -> String {
        eventually(&format!("the team's source says {reason}"), SOON, async || {
            let said = ready(&serde_json::to_value(self.source().get(TEAM).await?)?)?;
            ensure!(said.0 == reason, "{said:?}");
            Ok(said.1)
        })
        .await
    }

    /// The writes of the Deployment: the account in whose name, if not the operator's own, and the request.
    fn writes(&self) -> Vec<(Option<String>, AuditEvent)> {
        let of = |event: AuditEvent| (event.impersonated_user.clone().map(|user| user.username), event);
        let user = operator_user();
        let all = self.plane.writes("deployments", TEAM).unwrap().into_iter();
        all.filter(|event| event.user.username == user).map(of).collect()
    }
}

fn operator_user() -> String {
    format!("system:serviceaccount:{ROOT}:countersign")
}

pub async fn needs_only_what_the_guide_says(plane: &ControlPlane) {
    let before = plane.audit_events().unwrap().len();
    let namespaces: Api<Namespace> = Api::all(plane.client());
    let namespace = serde_json::from_value(json!({"metadata": {"name": TEAM}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    plane.kill("countersign").unwrap();
    let operator = operator_as_installed(plane, "countersign").await;
    operator.restart().await;
    let scene = Scene::at(plane, TEAM.to_owned()).await;
    scene.file_approvals([0, 1, 2]);
    scene.push("approve").await;
    let repo = Repo::new();
    let server = GitHttp::start(&repo).await;
    let (mut impersonation, mut first) = (Vec::new(), Vec::new());
    for mut object in guide() {
        if object["kind"] == "GitSource" {
            object["spec"]["url"] = json!(server.url);
        }
        if name_of(&object) == IMPERSONATES { impersonation.push(object) } else { first.push(object) }
    }
    let kinds = |objects: &[Value]| objects.iter().map(|object| object["kind"].clone()).collect::<Vec<_>>();
    assert_eq!(kinds(&first), ["ServiceAccount", "RoleBinding", "GitSource"]);
    assert_eq!(kinds(&impersonation), ["Role", "RoleBinding"]);
    let team = Team { plane, scene, repo, impersonation };
    let scene = &team.scene;
    team.repo.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(0)));
    team.repo.write("mine.yaml", &scene.config("mine"));
    team.repo.commit("run 1.0");

    for object in &first {
        team.apply(object).await;
    }
    let lacks = |said: &str| {
        let words = [&operator_user(), "cannot impersonate", "serviceaccounts", ACCOUNT, TEAM];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    lacks(&team.source_says("ProblemsFound").await);
    for object in &team.impersonation {
        team.apply(object).await;
    }
    the_role_gives_one_account_and_nothing_else(plane).await;
    // Nobody asks for it: what was refused is tried again.
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.proven("Deployment", "cart").await;
    team.source_says("Applied").await;
    assert!(scene.has_config("mine").await);
    team.names(1).await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    scene.proven("Deployment", "cart").await;
    let account = Some(format!("system:serviceaccount:{TEAM}:{ACCOUNT}"));
    let written = team.writes();
    assert!(written.len() == 2 && written.iter().all(|(by, _)| *by == account), "{written:#?}");

    // Without the Role, a revocation is carried out all the same, and nothing else.
    let roles = scene.of("rbac.authorization.k8s.io/v1", "Role", "roles", TEAM);
    roles.delete(IMPERSONATES, &DeleteParams::default()).await.unwrap();
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let (by, event) = team.writes().pop().unwrap();
    let operations = event.request_object.unwrap();
    let paths: Vec<&Value> =
        operations.as_array().unwrap().iter().map(|operation| &operation["path"]).collect();
    assert_eq!(
        (by, paths),
        (None, vec![&json!("/metadata/uid"), &json!("/metadata/resourceVersion"), &json!("/spec/template")])
    );
    team.names(2).await;
    lacks(&scene.says("Deployment", "cart", "Failed").await);
    lacks(&team.source_says("ProblemsFound").await);
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    team.apply(&team.impersonation[0]).await;
    team.looks().await;
    scene.runs("Deployment", "cart", &scene.pin(2)).await;
    scene.proven("Deployment", "cart").await;
    assert_eq!(team.writes().pop().unwrap().0, account);

    let user = operator_user();
    let refused: BTreeSet<String> = plane.audit_events().unwrap()[before..]
        .iter()
        .filter(|event| event.user.username == user)
        .filter_map(|event| event.response_status.clone())
        .filter(|status| status.code == 403)
        .map(|status| status.message)
        .collect();
    assert!(!refused.is_empty());
    for said in refused {
        assert!(
            said.contains("cannot impersonate resource \"serviceaccounts\"") && said.contains(TEAM),
            "{said}"
        );
    }
}

/// Asked of the API server, as the operator.
async fn the_role_gives_one_account_and_nothing_else(plane: &ControlPlane) {
    let client = client_of(plane, "countersign").await;
    let elsewhere = plane.namespace("elsewhere").await;
    eventually("the Role counts", SOON, async || {
        ensure!(may(&client, "impersonate", "", "serviceaccounts", ACCOUNT, TEAM).await);
        Ok(())
    })
    .await;
    let (there, usual) = (rights(&client, TEAM).await, rights(&client, &elsewhere).await);
    let more: Vec<&str> = there.lines().filter(|line| !usual.contains(line)).collect();
    assert_eq!(more, [format!("  serviceaccounts [{ACCOUNT}]: impersonate")]);
    assert!(may(&client, "impersonate", "", "serviceaccounts", "countersign-applier", ROOT).await);
    for (namespace, account) in [
        (elsewhere.as_str(), ACCOUNT),
        (elsewhere.as_str(), ""),
        ("kube-system", ""),
        (TEAM, "default"),
        (TEAM, ""),
        (ROOT, "countersign"),
        (ROOT, ""),
        ("", ""),
    ] {
        let allowed = may(&client, "impersonate", "", "serviceaccounts", account, namespace).await;
        assert!(!allowed, "{namespace}/{account}");
    }
    for (group, resource) in [
        ("", "users"),
        ("", "groups"),
        ("authentication.k8s.io", "uids"),
        ("authentication.k8s.io", "userextras"),
    ] {
        assert!(!may(&client, "impersonate", group, resource, "", "").await, "{resource}");
    }
    for namespace in [TEAM, ROOT, &elsewhere, ""] {
        assert!(!may(&client, "*", "*", "*", "", namespace).await, "all in {namespace:?}");
        // No verb for everything, and nothing for every verb.
        for verb in ["get", "list", "create", "patch", "delete", "impersonate", "escalate", "bind"] {
            assert!(!may(&client, verb, "*", "*", "", namespace).await, "{verb} everything in {namespace:?}");
        }
        for (group, resource) in
            [("", "secrets"), ("apps", "deployments"), ("countersign.dev", "approvedimages")]
        {
            assert!(!may(&client, "*", group, resource, "", namespace).await, "everything with {resource}");
        }
    }
}

async fn may(client: &Client, verb: &str, group: &str, resource: &str, name: &str, namespace: &str) -> bool {
    let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let asked = ResourceAttributes {
        verb: said(verb),
        group: said(group),
        resource: said(resource),
        name: said(name),
        namespace: said(namespace),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(asked), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    api.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
}
