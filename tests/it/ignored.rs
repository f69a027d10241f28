//! What a repository keeps out of its sources by `.countersignignore`.

use std::time::Duration;

use countersign::adapters::git::{Bounds, Mirrors, Reference, Remote, Tree};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    repo::{Repo, roots},
    scene::Scene,
};

async fn tree(repo: &Repo, paths: &[&str], bounds: Bounds) -> Tree {
    repo.commit("change");
    let cache = TempDir::new().unwrap();
    let mirrors = Mirrors::with_bounds(cache.path(), bounds);
    let url = repo.path().to_str().unwrap().to_owned();
    let remote = Remote {
        url,
        reference: Reference::Branch("main".to_owned()),
        credentials: None,
        destinations: roots(),
    };
    let head = mirrors.fetch("a", &remote, Duration::from_secs(30)).await.unwrap();
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    mirrors.read("a", &remote, move |mirror| mirror.tree(head.commit, &paths)).await.unwrap()
}

fn paths(tree: &Tree) -> Vec<&str> {
    tree.entries.iter().map(|entry| entry.path.as_str()).collect()
}

/// The rules are git's own: what git leaves out by the same file is not read.
#[tokio::test]
async fn ignore_files_mean_what_gitignore_means() {
    let repo = Repo::new();
    let files = [
        "a.yaml",
        "keep.yaml",
        "x.test.yaml",
        "docs/a.yaml",
        "docs/deep/a.yaml",
        "apps/a.yaml",
        "apps/docs/a.yaml",
        "apps/x.test.yaml",
        "apps/keep.test.yaml",
        "apps/gen/a.yaml",
        "apps/gen/keep.yaml",
        "apps/sp ace.yaml",
        "apps/#a.yaml",
        "build/a.yaml",
        "apps/build/a.yaml",
        "apps/deep/er/b.yaml",
        "apps/b1.yaml",
        "apps/bx.yaml",
    ];
    for file in files {
        repo.write(file, "a: b\n");
    }
    let rules = [
        (
            ".countersignignore",
            "# examples\n/docs/\n*.test.yaml\n\n/build\napps/**/b.yaml\nb[0-9].yaml\nsp\\ ace.yaml\n\\#a.yaml\r\n",
        ),
        ("apps/.countersignignore", "!keep.test.yaml\ngen/\n!gen/keep.yaml\n"),
    ];
    for (file, text) in rules {
        repo.write(file, text);
    }
    let tree = tree(&repo, &[], Bounds::default()).await;
    assert_eq!(tree.refused, []);
    let ignored = repo.git(&["ls-files", "-z", "-c", "-i", "--exclude-per-directory=.countersignignore"]);
    let ignored: Vec<&str> = ignored.split('\0').collect();
    let mut expected: Vec<&str> = files.into_iter().filter(|file| !ignored.contains(file)).collect();
    expected.sort_unstable();
    assert_eq!(paths(&tree), expected);
    assert!(expected.len() > 5 && expected.len() < 12, "{expected:?}");
}

/// If this fails an example directory fills the bounds, or a link in it stops pruning for ever.
#[tokio::test]
async fn what_is_ignored_does_not_count_and_is_not_refused() {
    let repo = Repo::new();
    repo.write(".countersignignore", "/examples/\n").write("apps/a.yaml", "a: b\n");
    for n in 0..10 {
        repo.write(&format!("examples/{n}.yaml"), &"x: y\n".repeat(100));
    }
    std::os::unix::fs::symlink("/etc/passwd", repo.path().join("examples/link.yaml")).unwrap();
    let bounds = Bounds { files: 1, total_bytes: 100, file_bytes: 100, ..Bounds::default() };
    let whole = tree(&repo, &[], bounds.clone()).await;
    assert_eq!((paths(&whole), whole.refused.len()), (vec!["apps/a.yaml"], 0));
    // The rules of the directories around count; what `paths` names itself is never ignored.
    repo.write("apps/b/.countersignignore", "c.yaml").write(".countersignignore", "/apps/\n/apps/b/d.yaml\n");
    for name in ["c", "d", "e"] {
        repo.write(&format!("apps/b/{name}.yaml"), "a: b\n");
    }
    assert_eq!(paths(&tree(&repo, &[], bounds.clone()).await), [] as [&str; 0]);
    assert_eq!(paths(&tree(&repo, &["apps/b"], bounds.clone()).await), ["apps/b/e.yaml"]);
    assert_eq!(paths(&tree(&repo, &["apps/b/d.yaml"], bounds).await), ["apps/b/d.yaml"]);
}

/// If this fails a slip in an ignore file hides a revocation, or passes for something that was taken away.
#[tokio::test]
async fn an_ignore_file_that_cannot_be_read_ignores_nothing_and_is_named() {
    let refused = async |repo: &Repo| {
        let tree = tree(repo, &[], Bounds::default()).await;
        assert_eq!(paths(&tree), ["a.yaml"]);
        let [refused] = tree.refused.as_slice() else { panic!("{:?}", tree.refused) };
        assert_eq!(refused.path, ".countersignignore");
        refused.reason.to_string()
    };
    let repo = Repo::new();
    repo.write("a.yaml", "a: b\n")
        .write("b.yaml", "a: b\n")
        .write(".countersignignore", "b.yaml\n[z-a].yaml\n");
    assert_eq!(
        refused(&repo).await,
        "nothing is ignored by it: line 2 is no pattern as .gitignore has them; correct it"
    );
    std::fs::remove_file(repo.path().join("b.yaml")).unwrap();
    repo.write_bytes(".countersignignore", b"*.yaml\n\xff\n");
    assert_eq!(refused(&repo).await, "nothing is ignored by it: it is not UTF-8");
    repo.write(".countersignignore", &"*.yaml\n".repeat(10_000));
    assert_eq!(refused(&repo).await, "nothing is ignored by it: it has 70000 bytes, and the bound is 65536");
    repo.write(".countersignignore", &format!("{}a.yaml\n", "\n".repeat(2_000)));
    assert_eq!(refused(&repo).await, "nothing is ignored by it: line 2001 and those after it are too many");
    std::fs::remove_file(repo.path().join(".countersignignore")).unwrap();
    std::os::unix::fs::symlink("a.yaml", repo.path().join(".countersignignore")).unwrap();
    assert_eq!(refused(&repo).await, "symbolic links are not followed");
}

/// If this fails what is ignored stays in the cluster, or a revocation goes with its file.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_ignored_from_now_on_is_pruned_and_its_revocations_stay() {
    let scene = Scene::new("ignored").await;
    scene.file_approvals(0..2);
    scene.ship("Deployment", "cart", 0).await;
    scene.ship("Deployment", "cart", 1).await;
    for n in 0..2 {
        scene.put(&format!("old/{n}.yaml"), &scene.config_map(&format!("old-{n}"), "1"));
    }
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("ConfigMap", "old-1", "/data/value", &json!("1")).await;

    scene.write(".countersignignore", "/old/\n!/old/0.yaml\n/approvals/1.yaml\n");
    scene.push("ignore").await;
    scene.synced().await;
    scene.gone(&scene.any("ConfigMap"), "old-0").await;
    scene.gone(&scene.any("ConfigMap"), "old-1").await;
    let approval = scene.approvals().get(&scene.approval_name(1)).await.unwrap();
    assert!(
        approval.metadata.deletion_timestamp.is_some() && approval.spec.revocation.is_some(),
        "{approval:?}"
    );
    scene.says("Deployment", "cart", "Held").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
}
