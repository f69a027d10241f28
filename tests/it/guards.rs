//! What a repository may not do by accident, and what is wrong in it.

use anyhow::{Context as _, ensure};
use countersign::api::git_source::SourceProblem;
use kube::{ResourceExt as _, api::DeleteParams};
use serde_json::{Value, json};

use crate::{
    controlplane::eventually,
    support::{
        operator::ROOT,
        repo::Repo,
        scene::{SOON, Scene},
    },
};

const ACCEPT: &str = "countersign.dev/accept-commit";

/// A story in which 1.1 runs, after 1.0.
async fn running(name: &str) -> Scene {
    let scene = Scene::new(name).await;
    scene.approve(&[0, 1]).await;
    scene.ran("cart", &[0, 1]).await;
    scene
}

fn remove(scene: &Scene, path: &str) {
    scene.repo.git(&["rm", "-q", path]);
}

/// The head is held back for a reason, its revocation of 1.1 counts, and nothing else of it does until a person accepts it.
async fn held_back_until_accepted(scene: &Scene, reason: &str) {
    scene.write("approvals/1.yaml", &scene.approval(1, Some("CVE-2026-0001")));
    scene.write("new.yaml", &scene.config("new"));
    let commit = scene.push(reason).await;
    let message = scene.source_says(reason).await;
    assert!(message.contains(&commit) && message.contains(ACCEPT), "{message}");
    let status = scene.sources().get(&scene.source).await.unwrap().status.unwrap();
    assert_eq!(status.held_back.unwrap().commit, commit);
    assert_ne!(status.last_applied_commit.unwrap(), commit);
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    scene.poke().await;
    assert!(!scene.has_config("new").await);
    scene.annotate_source(json!({ACCEPT: commit})).await;
    accepted(scene, &commit).await;
    assert!(scene.has_config("new").await);
}

async fn accepted(scene: &Scene, commit: &str) {
    eventually("the accepted commit is applied", SOON, async || {
        let status = scene.sources().get(&scene.source).await?.status.context("no status")?;
        ensure!(status.last_applied_commit.as_deref() == Some(commit), "{status:?}");
        ensure!(status.held_back.is_none(), "{status:?}");
        Ok(())
    })
    .await;
}

/// If this fails, whoever may force-push takes revocations back, or takes everything back to an old state.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_history_is_held_back_while_its_revocations_count() {
    let scene = running("rewritten").await;
    scene.repo.git(&["reset", "-q", "--hard", "HEAD~1"]);
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(1)));
    held_back_until_accepted(&scene, "HistoryRewritten").await;
    // What descends from the accepted commit is not held back.
    scene.write("newer.yaml", &scene.config("newer"));
    scene.push("after it").await;
    scene.synced().await;
    assert!(scene.has_config("newer").await);
}

/// If this fails, a repository whose branch is rewritten on purpose cannot be followed.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_allows_it_follows_a_rewritten_history() {
    let scene = running("rewrites").await;
    scene.follow(json!({"allowRewrite": true})).await;
    scene.repo.git(&["reset", "-q", "--hard", "HEAD~1"]);
    scene.write("new.yaml", &scene.config("new"));
    let commit = scene.push("rewritten").await;
    accepted(&scene, &commit).await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    assert!(scene.has_config("new").await);
}

/// If this fails, a bad merge withdraws a fleet's approvals.
#[tokio::test(flavor = "multi_thread")]
async fn a_mass_withdrawal_is_held_back() {
    let scene = running("mass").await;
    scene.approve(&[2, 3, 4, 5, 6, 7]).await;
    for n in 2..8 {
        remove(&scene, &format!("approvals/{n}.yaml"));
    }
    held_back_until_accepted(&scene, "TooManyWithdrawals").await;
    assert!(scene.approvals().get_opt(&scene.approval_name(5)).await.unwrap().is_none());
}

/// If this fails, a moved folder withdraws every approval of a small team.
#[tokio::test(flavor = "multi_thread")]
async fn the_withdrawal_of_all_approvals_is_held_back() {
    let scene = Scene::new("all").await;
    scene.approve(&[0]).await;
    scene.ran("cart", &[0]).await;
    remove(&scene, "approvals/0.yaml");
    scene.push("withdraw all").await;
    let message = scene.source_says("TooManyWithdrawals").await;
    assert!(message.contains("all approvals"), "{message}");
    assert!(scene.approvals().get_opt(&scene.approval_name(0)).await.unwrap().is_some());
}

/// If this fails, an emptied branch deletes everything.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_repository_is_held_back_with_or_without_prune() {
    for prune in [true, false] {
        let scene = running("emptied").await;
        scene.follow(json!({"prune": prune})).await;
        remove(&scene, "*");
        scene.push("empty").await;
        scene.source_says("Emptied").await;
        scene.poke().await;
        assert!(scene.approvals().get_opt(&scene.approval_name(0)).await.unwrap().is_some());
        scene.runs("Deployment", "cart", &scene.pin(1)).await;
        // What it holds goes on to count.
        scene.sets("somebody", "cart", &scene.pin(9)).await;
        scene.runs("Deployment", "cart", &scene.pin(1)).await;
    }
}

/// If this fails, a wrong path in a source deletes most of what it applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_of_more_than_half_is_held_back() {
    let scene = running("prune").await;
    for n in 0..14 {
        scene.write(&format!("config/{n}.yaml"), &scene.config(&format!("c{n}")));
    }
    scene.push("many").await;
    scene.synced().await;
    for n in 0..14 {
        remove(&scene, &format!("config/{n}.yaml"));
    }
    held_back_until_accepted(&scene, "PruneTooLarge").await;
    assert!(!scene.has_config("c3").await);
}

/// If this fails, one typing error hides other files, deletes objects, or cannot be found.
#[tokio::test(flavor = "multi_thread")]
async fn every_bad_file_is_named_with_its_line_and_the_rest_is_applied() {
    let scene = running("bad").await;
    let ns = scene.namespace.clone();
    scene.write("older.yaml", &scene.config("older"));
    scene.push("older").await;
    scene.synced().await;
    remove(&scene, "older.yaml");
    let good = scene.config("good");
    let unknown = scene
        .policy("Enforce")
        .replace("requireDigest: true", "requireDigests: true")
        .replace(&format!("{{name: {ns}"), &format!("{{name: {ns}-unknown"));
    let digest = scene.approval(4, None).replace(&scene.digest(4), "sha256:1234");
    let history = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: ReleaseHistory\nmetadata: {{name: h, namespace: {ROOT}}}\nspec: {{}}\n"
    );
    let homeless = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: homeless}\n";
    scene.write("bad/malformed.yaml", "a: b\nc: {\n");
    scene.write("bad/unknown.yaml", &format!("{good}---\n{unknown}"));
    scene.write("bad/digest.yaml", &digest);
    scene.write(
        "bad/nameless.yaml",
        &format!("{}---\napiVersion: v1\nkind: ConfigMap\n", scene.config("beside")),
    );
    scene.write("values/list.yaml", "- no\n- object\n");
    scene.write("bad/history.yaml", &history);
    scene.write("bad/homeless.yaml", &format!("# a comment\n{homeless}"));
    scene.write("bad/twice.yaml", &format!("{0}---\n{0}", scene.config("twice")));
    std::os::unix::fs::symlink("/etc/passwd", scene.repo.path().join("bad/link.yaml")).unwrap();
    scene.push("bad files").await;
    scene.source_says("ProblemsFound").await;
    let status = scene.sources().get(&scene.source).await.unwrap().status.unwrap();
    let problems = &status.problems;
    let named = |path: &str, line: Option<u32>, document: Option<u32>, says: &str| {
        let is = |problem: &&SourceProblem| problem.path == path;
        let found: Vec<_> = problems.iter().filter(is).collect();
        assert_eq!(found.len(), 1, "{path}: {problems:#?}");
        let found = found[0];
        assert_eq!((found.line, found.document), (line, document), "{found:?}");
        assert!(found.message.contains(says), "{found:?}");
    };
    named("bad/malformed.yaml", Some(2), Some(1), "");
    named("bad/unknown.yaml", Some(6), Some(2), "requireDigests");
    named("bad/digest.yaml", Some(1), Some(1), "digest");
    named("bad/nameless.yaml", Some(6), Some(2), "name");
    named("bad/history.yaml", Some(1), Some(1), "written by the operator alone");
    named("bad/homeless.yaml", Some(2), Some(1), "metadata.namespace is missing");
    named("bad/twice.yaml", Some(6), Some(2), "bad/twice.yaml:1");
    named("bad/link.yaml", None, None, "link");
    assert_eq!(status.problem_count, Some(8), "{problems:#?}");
    assert_eq!(status.skipped_documents, Some(1), "what is no object at all is passed over, and counted");
    for name in ["good", "beside", "twice", "older"] {
        assert!(scene.has_config(name).await, "{name}");
    }
}

/// If this fails, what is taken out of a manifest stays in the cluster: a debugging flag, a sidecar, an exception of a policy.
#[tokio::test(flavor = "multi_thread")]
async fn what_git_does_not_say_any_more_goes() {
    let scene = running("less").await;
    let less = scene.workload("Deployment", "cart", &scene.tag(1));
    let more = less.replace("template: {", "paused: false\n  template: {").replace(
        "}]}}",
        ", env: [{name: DEBUG, value: \"1\"}], ports: [{containerPort: 53}, {containerPort: 53, protocol: UDP}]}], hostNetwork: true}}",
    );
    assert_ne!(more, less);
    scene.write("cart.yaml", &more);
    scene.write("a.yaml", &format!("{}  more: b\n", scene.config("a").replace("{a: b}", "\n  a: b")));
    let policy = scene.policy("Enforce");
    scene.write("policy.yaml", &format!("{policy}  sources: {{deny: [\"registry.example/bad/**\"]}}\n"));
    scene.push("more").await;
    let said = async || {
        let cart = scene.any("Deployment").get("cart").await?.data["spec"]["template"]["spec"].clone();
        let config = scene.any("ConfigMap").get("a").await?.data["data"].clone();
        let policies: kube::Api<countersign::api::ImagePolicy> =
            kube::Api::namespaced(scene.client.clone(), ROOT);
        let policy = policies.get(&scene.namespace).await?.spec;
        let container = cart["containers"][0].clone();
        let there = [
            container.get("env").is_some(),
            container["ports"].as_array().is_some_and(|ports| ports.len() == 2),
            cart.get("hostNetwork").is_some(),
            config.get("more").is_some(),
            policy.sources.is_some(),
        ];
        anyhow::Ok(there)
    };
    eventually("all of it is there", SOON, async || {
        let there = said().await?;
        ensure!(there == [true; 5], "{there:?}");
        Ok(())
    })
    .await;
    scene.write("cart.yaml", &less);
    scene.write("a.yaml", &scene.config("a"));
    scene.write("policy.yaml", &policy);
    scene.push("less").await;
    eventually("all of it is gone", SOON, async || {
        let there = said().await?;
        ensure!(there == [false; 5], "{there:?}");
        Ok(())
    })
    .await;
}

/// If this fails, two teams' sources fight over one object for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_two_sources_keeps_an_object_and_the_second_says_so() {
    let scene = running("claimed").await;
    let other = Repo::new();
    other.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(0)));
    other.commit_file("own.yaml", &scene.config("own"));
    second(&scene, ROOT, json!({"url": other.path()})).await;
    let message = second_says(&scene, ROOT, "ProblemsFound").await;
    assert!(message.contains(&format!("{ROOT}/{} applies this object already", scene.source)), "{message}");
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    assert!(scene.has_config("own").await);
}

/// If this fails, removing a source removes what it brought, or lets a revoked image back in.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_source_deletes_nothing_and_its_holds_go_on() {
    let scene = running("gone").await;
    scene.write("a.yaml", &scene.config("a"));
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    scene.sources().delete(&scene.source, &DeleteParams::default()).await.unwrap();
    scene.sets("somebody", "cart", &scene.pin(1)).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    assert!(scene.has_config("a").await);
    assert!(scene.approvals().get_opt(&scene.approval_name(0)).await.unwrap().is_some());
    // It is nobody's now: who sets something permitted ends the hold.
    scene.apply_yaml(&scene.approval(2, None)).await;
    scene.sets("somebody", "cart", &scene.pin(2)).await;
    scene.proven_at("Deployment", "cart", &scene.pin(2)).await;
}

/// If this fails, suspending a source suspends its rollbacks, or goes unnoticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_source_applies_nothing_while_rollbacks_and_holds_go_on() {
    let scene = running("suspended").await;
    scene.follow(json!({"suspend": true})).await;
    scene.source_says("Suspended").await;
    scene.write("new.yaml", &scene.config("new"));
    scene.repo.commit("not to be seen");
    scene.poke().await;
    scene.revoke_by_hand(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    scene.sets("somebody", "cart", &scene.pin(1)).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    assert!(!scene.has_config("new").await);
    scene.follow(json!({"suspend": false})).await;
    scene.synced().await;
    assert!(scene.has_config("new").await);
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
}

/// If this fails, a source that cannot work looks like one that does.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_work_says_why() {
    let scene = Scene::new("broken").await;
    second(&scene, ROOT, json!({"url": "http://127.0.0.1:9/repo"})).await;
    let message = second_says(&scene, ROOT, "FetchFailed").await;
    assert!(message.contains("127.0.0.1:9"), "{message}");
    second(&scene, ROOT, json!({"url": scene.repo.path(), "ref": {"branch": "missing"}})).await;
    let message = second_says(&scene, ROOT, "ReferenceNotFound").await;
    assert!(message.contains("missing"), "{message}");
    // A tenant's source would apply with rights that the tenant does not have.
    second(&scene, &scene.namespace, json!({"url": scene.repo.path()})).await;
    let message = second_says(&scene, &scene.namespace, "ServiceAccountRequired").await;
    assert!(message.contains(ROOT), "{message}");
}

/// Applies a second source.
async fn second(scene: &Scene, namespace: &str, more: Value) {
    let mut spec = json!({"ref": {"branch": "main"}, "interval": "1s", "prune": true});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    scene
        .apply(&json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "GitSource",
            "metadata": {"name": format!("{}-second", scene.source), "namespace": namespace}, "spec": spec,
        }))
        .await;
}

async fn second_says(scene: &Scene, namespace: &str, reason: &str) -> String {
    let api: kube::Api<countersign::api::GitSource> = kube::Api::namespaced(scene.client.clone(), namespace);
    let name = format!("{}-second", scene.source);
    eventually(&format!("the second source says {reason}"), SOON, async || {
        let found = api.get(&name).await?;
        let (said, message) = crate::support::scene::ready(&serde_json::to_value(&found)?)?;
        ensure!(said == reason, "{}: {said}: {message}", found.name_any());
        Ok(message)
    })
    .await
}

/// If this fails, one kind that the API server does not list stops everything else of its source.
#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_cannot_be_listed_stops_no_other() {
    let scene = Scene::new("unlisted").await;
    scene.write("older.yaml", &scene.config("older"));
    scene.push("older").await;
    scene.synced().await;
    remove(&scene, "older.yaml");
    // The API server answers a list of these with 405.
    let review = "apiVersion: authorization.k8s.io/v1\nkind: SubjectAccessReview\nmetadata: {name: review}\nspec: {user: ana}\n";
    scene.write("review.yaml", &format!("# asks\n{review}"));
    scene.write("new.yaml", &scene.config("new"));
    let commit = scene.push("a kind that is not kept").await;
    let said = scene.source_says("ProblemsFound").await;
    assert!(said.contains("review.yaml:2: document 1: SubjectAccessReview review: cannot list"), "{said}");
    assert!(scene.has_config("new").await && !scene.has_config("older").await);
    let status = scene.sources().get(&scene.source).await.unwrap().status.unwrap();
    assert_eq!(status.last_applied_commit, Some(commit));
    assert_eq!(status.problem_count, Some(1), "{:?}", status.problems);
}

/// If this fails, an acceptance is a pass for ever: whoever may push takes the branch back to a commit that was accepted once.
#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_commit_passes_once_and_again_when_a_person_says_so_again() {
    let scene = running("once").await;
    scene.repo.git(&["reset", "-q", "--hard", "HEAD~1"]);
    scene.write("new.yaml", &scene.config("new"));
    let commit = scene.push("rewritten").await;
    scene.source_says("HistoryRewritten").await;
    scene.annotate_source(json!({ACCEPT: commit})).await;
    accepted(&scene, &commit).await;
    scene.write("newer.yaml", &scene.config("newer"));
    scene.push("after it").await;
    scene.synced().await;

    scene.repo.git(&["reset", "-q", "--hard", &commit]);
    scene.poke().await;
    let said = scene.source_says("HistoryRewritten").await;
    assert!(said.contains("remove the annotation"), "{said}");
    let status = scene.sources().get(&scene.source).await.unwrap().status.unwrap();
    assert_eq!(status.accepted_commit.as_deref(), Some(commit.as_str()));
    assert!(scene.has_config("newer").await);

    scene.annotate_source(json!({ACCEPT: null})).await;
    eventually("the acceptance is forgotten", SOON, async || {
        let status = scene.sources().get(&scene.source).await?.status.context("no status")?;
        ensure!(status.accepted_commit.is_none(), "{status:?}");
        Ok(())
    })
    .await;
    scene.annotate_source(json!({ACCEPT: commit})).await;
    accepted(&scene, &commit).await;
    assert!(!scene.has_config("newer").await);
}

/// If this fails, a head that waits for a person is forgotten as soon as anything else goes wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_stays_held_back_while_its_source_is_away_or_suspended() {
    let scene = running("waits").await;
    remove(&scene, "*");
    let commit = scene.push("empty").await;
    scene.source_says("Emptied").await;
    let stays = async |what: &str| {
        let status = scene.sources().get(&scene.source).await.unwrap().status.unwrap();
        let held = status.conditions.iter().find(|found| found.type_ == "HeldBack");
        let held = held.unwrap_or_else(|| panic!("{what}: {status:?}"));
        assert!(
            held.status == "True" && held.reason == "Emptied" && held.message.contains(&commit),
            "{held:?}"
        );
        assert_eq!(status.held_back.unwrap().commit, commit, "{what}");
    };
    let away = scene.repo.path().with_extension("away");
    std::fs::rename(scene.repo.path(), &away).unwrap();
    scene.poke().await;
    scene.source_says("RepositoryNotFound").await;
    stays("away").await;
    scene.follow(json!({"suspend": true})).await;
    scene.source_says("Suspended").await;
    stays("suspended").await;
    std::fs::rename(&away, scene.repo.path()).unwrap();
    scene.repo.git(&["reset", "-q", "--hard", "HEAD~1"]);
    scene.follow(json!({"suspend": false})).await;
    scene.synced().await;
    let status = scene.sources().get(&scene.source).await.unwrap().status.unwrap();
    assert!(
        status.held_back.is_none() && status.conditions.iter().all(|found| found.type_ != "HeldBack"),
        "{status:?}"
    );
}
