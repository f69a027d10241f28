//! A team has a source of its own, in its own namespace, with its own rights and no more.

use anyhow::{Context as _, ensure};
use countersign::api::GitSource;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    controlplane::eventually,
    support::{
        manifests::{writes, yaml},
        operator::ROOT,
        repo::{GitHttp, Repo},
        scene::{SOON, Scene, ready, shared_plane},
        trap::Trap,
    },
};

const ACCOUNT: &str = "deployer";

/// A tenant: the scene is the security team's, the repository its own.
struct Tenant {
    scene: Scene,
    repo: Repo,
    server: GitHttp,
}

impl Tenant {
    /// A namespace with a service account that may write Deployments, ConfigMaps and Countersign's own kinds there.
    async fn new(name: &str) -> Self {
        let scene = Scene::new(name).await;
        let ns = &scene.namespace;
        let rules = json!([
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]},
            {"apiGroups": ["countersign.dev"], "resources": ["approvedimages", "imagepolicies"], "verbs": ["*"]},
        ]);
        scene.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": ns}})).await;
        scene
            .apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"name": ACCOUNT, "namespace": ns}, "rules": rules}))
            .await;
        let repo = Repo::new();
        repo.commit("nothing yet");
        let server = GitHttp::start(&repo).await;
        let tenant = Self { scene, repo, server };
        tenant.bind().await;
        tenant
    }

    async fn bind(&self) {
        let ns = &self.scene.namespace;
        self.scene
            .apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": ACCOUNT, "namespace": ns},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT},
                "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": ns}]}))
            .await;
    }

    async fn unbind(&self) {
        let bindings = self.scene.of(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            "rolebindings",
            &self.scene.namespace,
        );
        bindings.delete(ACCOUNT, &DeleteParams::default()).await.unwrap();
    }

    fn sources(&self) -> Api<GitSource> {
        Api::namespaced(self.scene.client.clone(), &self.scene.namespace)
    }

    async fn follow(&self, more: Value) {
        let mut spec = json!({"url": self.server.url, "ref": {"branch": "main"}, "interval": "1h", "prune": true,
            "serviceAccountName": ACCOUNT});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let source = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "GitSource",
            "metadata": {"name": "team", "namespace": self.scene.namespace}, "spec": spec});
        self.scene.apply(&source).await;
    }

    async fn push(&self, message: &str) -> String {
        let commit = self.repo.commit(message);
        let stamp = format!("{:?}", std::time::SystemTime::now());
        let asked = json!({"metadata": {"annotations": {"countersign.dev/reconcile-requested-at": stamp}}});
        self.sources().patch("team", &PatchParams::default(), &Patch::Merge(&asked)).await.unwrap();
        commit
    }

    /// Waits until Ready has a reason; answers with the whole status.
    async fn says(&self, reason: &str) -> Value {
        eventually(&format!("the tenant's source says {reason}"), SOON, async || {
            let source = serde_json::to_value(self.sources().get("team").await?)?;
            let said = ready(&source)?;
            ensure!(said.0 == reason, "{said:?}");
            Ok(source["status"].clone())
        })
        .await
    }

    async fn applied(&self, commit: &str) -> Value {
        eventually("the tenant's commit is applied", SOON, async || {
            let source = serde_json::to_value(self.sources().get("team").await?)?;
            let status = &source["status"];
            ensure!(status["lastAppliedCommit"] == json!(commit), "{status}");
            Ok(status.clone())
        })
        .await
    }
}

fn config(name: &str, namespace: Option<&str>) -> Value {
    let mut object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

/// If this fails, whoever may push to a team's repository has the rights of the operator, or those of another team.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_tenant_reaches_no_further_than_its_service_account_and_its_namespace() {
    let tenant = Tenant::new("hostile").await;
    let (scene, ns) = (&tenant.scene, tenant.scene.namespace.clone());
    scene.write("approvals/0.yaml", &scene.approval(0, None));
    scene.push("approve 1.0").await;
    let own_approval = |version: u8, namespace: &str| {
        let mut object: Value = serde_yaml::from_str(&scene.approval(version, None)).unwrap();
        object["metadata"]["namespace"] = json!(namespace);
        object
    };
    let loose = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "ImagePolicy",
        "metadata": {"name": "loose", "namespace": ns}, "spec": {"mode": "Audit"}});
    let cluster_role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": format!("{ns}-all")}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine", "namespace": ns}});
    let elsewhere = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": ns, "namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "app", "image": "x"}]}}}});
    for (file, object) in [
        ("mine.yaml", config("mine", None)),
        ("approval.yaml", own_approval(9, &ns)),
        ("loose.yaml", loose),
        ("bad-approval.yaml", own_approval(8, ROOT)),
        ("bad-config.yaml", config(&ns, Some("kube-system"))),
        ("bad-deployment.yaml", elsewhere),
        ("bad-role.yaml", cluster_role),
        ("bad-secret.yaml", secret),
    ] {
        tenant.repo.write(file, &yaml(&object));
    }
    tenant.repo.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(0)));
    tenant.repo.write("sneaky.yaml", &scene.workload("Deployment", "sneaky", &scene.tag(9)));
    tenant.follow(json!({})).await;
    let commit = tenant.push("try everything").await;
    let status = tenant.applied(&commit).await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    assert!(scene.has_config("mine").await, "what names no namespace goes into the tenant's");

    let problems = status["problems"].as_array().unwrap();
    let of = |file: &str| {
        let said = problems.iter().find(|problem| problem["path"] == file);
        said.map_or_else(String::new, |problem| problem["message"].as_str().unwrap().to_owned())
    };
    for file in ["bad-approval.yaml", "bad-config.yaml", "bad-deployment.yaml", "bad-role.yaml"] {
        assert!(of(file).contains(&ns), "{file}: {problems:#?}");
    }
    let refused = of("bad-secret.yaml");
    assert!(refused.contains(&format!("system:serviceaccount:{ns}:{ACCOUNT}")), "{refused}");
    let absent = async |api: Api<kube::api::DynamicObject>, name: &str| {
        assert!(api.get_opt(name).await.unwrap().is_none(), "{name}");
    };
    absent(scene.of("v1", "ConfigMap", "configmaps", "kube-system"), &ns).await;
    absent(scene.of("v1", "Secret", "secrets", &ns), "mine").await;
    absent(scene.of("apps/v1", "Deployment", "deployments", "default"), &ns).await;
    absent(scene.of("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", ""), &format!("{ns}-all"))
        .await;
    assert!(scene.approvals().get_opt(&scene.approval_name(8)).await.unwrap().is_none());
    // Its own approval and its own policy are there, and loosen nothing that the root asks for.
    let said = scene.says("Deployment", "sneaky", "NotCreated").await;
    assert!(said.contains(&scene.tag(9)), "{said}");
    assert!(scene.any("Deployment").get_opt("sneaky").await.unwrap().is_none());

    let account = format!("system:serviceaccount:{ns}:{ACCOUNT}");
    let written: Vec<_> = writes(shared_plane().await, "deployments", &ns)
        .into_iter()
        .map(|event| event.impersonated_user.map(|user| user.username))
        .collect();
    assert_eq!(written, [Some(account)], "the Deployment was created in the tenant's name");
}

/// If this fails, a tenant stops rollbacks by taking a role away.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_account_has_lost_its_rights_is_rolled_back_all_the_same() {
    let tenant = Tenant::new("disarmed").await;
    let scene = &tenant.scene;
    for n in 0..3 {
        scene.write(&format!("approvals/{n}.yaml"), &scene.approval(n, None));
    }
    scene.push("approve").await;
    tenant.follow(json!({})).await;
    for n in 0..2 {
        tenant.repo.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(n)));
        tenant.push(&format!("run 1.{n}")).await;
        scene.runs("Deployment", "cart", &scene.pin(n)).await;
        scene.proven("Deployment", "cart").await;
    }
    tenant.unbind().await;
    scene.write("approvals/1.yaml", &scene.approval(1, Some("CVE-2026-0001")));
    scene.push("revoke 1.1").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    let forced =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": scene.pin(1)}]}}}});
    scene.edit("Deployment", "cart", &forced).await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    // Forward it goes with the account's rights, once they are back.
    tenant.repo.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(2)));
    tenant.push("run 1.2").await;
    eventually("what is missing is said", SOON, async || {
        let history = serde_json::to_string(&scene.history("Deployment", "cart").await?)?;
        ensure!(history.contains(&format!("serviceaccount:{}:{ACCOUNT}", scene.namespace)), "{history}");
        Ok(())
    })
    .await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    tenant.bind().await;
    tenant.push("again").await;
    scene.runs("Deployment", "cart", &scene.pin(2)).await;
    scene.proven("Deployment", "cart").await;
}

/// If this fails, approvals of a team count where nobody said that they do, or not where somebody did.
#[tokio::test(flavor = "multi_thread")]
async fn approvals_of_a_namespace_count_where_the_policy_takes_them() {
    let tenant = Tenant::new("approves").await;
    let scene = &tenant.scene;
    let mut approval: Value = serde_yaml::from_str(&scene.approval(0, None)).unwrap();
    approval["metadata"]["namespace"] = json!(scene.namespace);
    tenant.repo.write("approval.yaml", &yaml(&approval));
    tenant.repo.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(0)));
    tenant.follow(json!({})).await;
    tenant.push("approve ourselves").await;
    scene.says("Deployment", "cart", "NotCreated").await;
    scene.write("policy.yaml", &scene.policy("Enforce").replace("from: [Root]", "from: [Root, Namespace]"));
    scene.push("teams may approve").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
}

/// If this fails, a source outside of the root namespace applies as the operator, reads its disk, or writes elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_a_tenant_says_what_it_lacks() {
    let tenant = Tenant::new("lacking").await;
    tenant.repo.write("mine.yaml", &yaml(&config("mine", None)));
    tenant.repo.commit("a file");
    tenant.follow(json!({"serviceAccountName": null})).await;
    tenant.says("ServiceAccountRequired").await;
    tenant.follow(json!({"url": tenant.repo.path()})).await;
    tenant.says("LocalUrl").await;
    tenant.follow(json!({"targetNamespace": "default"})).await;
    tenant.says("OutsideNamespace").await;
    tenant.follow(json!({"serviceAccountName": "nobody"})).await;
    let status = tenant.says("ProblemsFound").await;
    assert!(
        status["problems"][0]["message"].as_str().context("no message").unwrap().contains(":nobody"),
        "{status}"
    );
    assert!(!tenant.scene.has_config("mine").await);
    tenant.follow(json!({})).await;
    tenant.says("Applied").await;
    assert!(tenant.scene.has_config("mine").await);
}

/// If this fails, whoever may write a source has the operator ask servers that only the operator reaches.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_a_tenant_connects_to_no_private_address_that_is_not_listed() {
    let tenant = Tenant::new("inside").await;
    let (inside, not_listed) = (Trap::set_at("127.0.0.2"), "127.0.0.2");
    for url in [
        format!("http://{not_listed}:{}/repo", inside.port),
        format!("https://{not_listed}:{}/repo", inside.port),
        format!("http://[::ffff:{not_listed}]:{}/repo", inside.port),
        format!("http://169.254.169.254:{}/latest/meta-data/iam/security-credentials", inside.port),
    ] {
        tenant.follow(json!({"url": url})).await;
        let status = tenant.says("AddressNotAllowed").await;
        eventually("this very URL is told of", SOON, async || {
            let (_, told) = ready(&serde_json::to_value(tenant.sources().get("team").await?)?)?;
            let host = url::Url::parse(&url)?.host_str().unwrap().to_owned();
            ensure!(told.contains(&host) && told.contains("--private-git-hosts"), "{told}: {status}");
            Ok(())
        })
        .await;
    }
    assert_eq!(inside.seen(), "", "nobody came");
    // What is listed is followed, and the root namespace may look where it wants.
    tenant.repo.write("mine.yaml", &yaml(&config("mine", None)));
    tenant.repo.commit("a file");
    tenant.follow(json!({})).await;
    tenant.says("Applied").await;
    tenant.scene.follow(json!({"url": format!("http://{not_listed}:{}/repo", inside.port)})).await;
    eventually("the operator came", SOON, async || {
        ensure!(inside.seen().contains("GET /repo/info/refs"), "{}", inside.seen());
        Ok(())
    })
    .await;
    tenant.scene.follow(json!({"url": "http://169.254.169.254/latest"})).await;
    let told = tenant.scene.source_says("AddressNotAllowed").await;
    assert!(told.contains("that very address"), "{told}");
}

/// If this fails, what needs another source is applied before it, or waits for ever without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_waits_for_those_it_depends_on_and_its_revocations_do_not() {
    let scene = Scene::new("dependent").await;
    scene.write("approvals/0.yaml", &scene.approval(0, None));
    scene.push("approve").await;
    let base = format!("{}-base", scene.namespace);
    scene.follow(json!({"dependsOn": [{"name": base}]})).await;
    scene.write("a.yaml", &scene.config("a"));
    scene.write("approvals/0.yaml", &scene.approval(0, Some("CVE-2026-0001")));
    scene.repo.commit("needs the base, and revokes");
    scene.poke().await;
    let said = scene.source_says("DependencyNotReady").await;
    assert!(said.contains(&base) && said.contains("does not exist"), "{said}");
    eventually("the revocation counts", SOON, async || {
        let approval = scene.approvals().get(&scene.approval_name(0)).await?;
        ensure!(approval.spec.revocation.is_some());
        Ok(())
    })
    .await;
    assert!(!scene.has_config("a").await);

    let other = Repo::new();
    other.write("base.yaml", &scene.config("base"));
    other.commit("the base");
    let follow = |depends_on: Value| {
        json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "GitSource", "metadata": {"name": base, "namespace": ROOT},
            "spec": {"url": other.path(), "ref": {"branch": "main"}, "interval": "1h", "dependsOn": depends_on}})
    };
    scene.apply(&follow(json!([{"name": scene.source}]))).await;
    scene.poke().await;
    eventually("the cycle is said", SOON, async || {
        let said = serde_json::to_string(&scene.sources().get(&scene.source).await?.status)?;
        ensure!(said.contains("DependencyCycle"), "{said}");
        Ok(())
    })
    .await;
    // Nobody asks for it: the one that waits is looked at as soon as the other is ready.
    scene.apply(&follow(json!([]))).await;
    scene.synced().await;
    assert!(scene.has_config("a").await && scene.has_config("base").await);
}

/// If this fails, one repository cannot be applied to two namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_namespace_takes_all_objects_whatever_they_say() {
    let scene = Scene::new("target").await;
    let other = shared_plane().await.namespace("target-other").await;
    scene.write("approvals/0.yaml", &scene.approval(0, None));
    scene.push("approve").await;
    let apps = Repo::new();
    apps.write(
        "cart.yaml",
        &scene
            .workload("Deployment", "cart", &scene.tag(0))
            .replace(&format!("namespace: {}", scene.namespace), &format!("namespace: {other}")),
    );
    apps.write("a.yaml", &yaml(&config("a", None)));
    apps.commit("apps");
    scene
        .apply(&json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "GitSource",
            "metadata": {"name": other, "namespace": ROOT},
            "spec": {"url": apps.path(), "ref": {"branch": "main"}, "interval": "1h", "targetNamespace": scene.namespace}}))
        .await;
    eventually("the objects are in the target namespace", SOON, async || {
        ensure!(scene.has_config("a").await);
        ensure!(scene.any("Deployment").get_opt("cart").await?.is_some());
        Ok(())
    })
    .await;
    let left = scene.of("apps/v1", "Deployment", "deployments", &other);
    assert!(left.get_opt("cart").await.unwrap().is_none());
}
