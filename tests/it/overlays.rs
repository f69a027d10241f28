//! Overlays, read from real repositories and built by the real kustomize; and a kustomize gone wild.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::{
    adapters::{
        git::{Mirrors, Reference, Remote},
        kustomize::{Bounds, Error, Kustomize},
    },
    controllers::source::content::{Content, Files},
};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    operator::kustomize,
    repo::{Repo, roots},
};

/// A repository, and what is kept between two reads of it.
struct Reader {
    repo: Repo,
    cache: TempDir,
    mirrors: Mirrors,
    files: Files,
}

impl Reader {
    fn new() -> Self {
        let cache = TempDir::new().unwrap();
        let mirrors = Mirrors::new(cache.path());
        Self { repo: Repo::new(), cache, mirrors, files: Files::default() }
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        self.repo.write(path, text);
        self
    }

    async fn read(&self, paths: &[&str]) -> Content {
        self.read_with(paths, Kustomize::new(self.cache.path(), Some(kustomize()))).await
    }

    async fn read_with(&self, paths: &[&str], kustomize: Kustomize) -> Content {
        self.repo.commit("change");
        let url = self.repo.path().to_str().unwrap().to_owned();
        let remote = Remote {
            url,
            reference: Reference::Branch("main".to_owned()),
            credentials: None,
            destinations: roots(),
        };
        let head = self.mirrors.fetch("a", &remote, Duration::from_secs(30)).await.unwrap();
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let files = self.files.clone();
        let read = move |mirror: &countersign::adapters::git::Mirror| {
            files.read(mirror, head.commit, &paths, &kustomize)
        };
        Arc::unwrap_or_clone(self.mirrors.read("a", &remote, read).await.unwrap())
    }

    /// A base with one object, and overlays that put a prefix before its name.
    fn base_and_overlays(&self, overlays: &[&str]) {
        self.write("base/kustomization.yaml", "resources: [config.yaml]\n");
        self.write("base/config.yaml", &config("settings"));
        for overlay in overlays {
            let text = format!("resources: [../../base]\nnamePrefix: {overlay}-\n");
            self.write(&format!("overlays/{overlay}/kustomization.yaml"), &text);
        }
    }
}

fn config(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\ndata: {{a: b}}\n")
}

fn names(content: &Content) -> Vec<&str> {
    content.items.iter().map(|item| item.id.name.as_str()).collect()
}

fn said(content: &Content) -> Vec<String> {
    content.problems.iter().map(ToString::to_string).collect()
}

/// If this fails bases are applied as they stand, or overlays are not applied at all.
#[tokio::test]
async fn overlays_are_built_and_their_bases_are_not() {
    let reader = Reader::new();
    reader.base_and_overlays(&["prod", "test"]);
    reader.write("plain.yaml", &config("plain"));
    let whole = reader.read(&[]).await;
    assert_eq!(names(&whole), ["plain", "prod-settings", "test-settings"], "{:?}", said(&whole));
    assert!(!whole.partial && whole.problems.is_empty(), "{:?}", said(&whole));
    assert_eq!(whole.items[1].path, "overlays/prod/kustomization.yaml");
    // A base outside of `paths` is within reach; what `paths` names is built, also a base.
    assert_eq!(names(&reader.read(&["overlays/prod"]).await), ["prod-settings"]);
    assert_eq!(names(&reader.read(&["base"]).await), ["settings"]);
    assert_eq!(names(&reader.read(&["base", "overlays/test"]).await), ["settings", "test-settings"]);

    // Only the outermost is built; what is below belongs to it, named or not.
    reader.write("overlays/kustomization.yaml", "resources: [prod]\nnameSuffix: -all\n");
    reader.write("overlays/loose.yaml", &config("loose"));
    assert_eq!(names(&reader.read(&[]).await), ["plain", "prod-settings-all"]);
}

#[tokio::test]
async fn every_part_of_an_overlay_is_found() {
    let reader = Reader::new();
    reader.base_and_overlays(&[]);
    reader.write(
        "prod/Kustomization",
        "resources: [../base, more.yaml]\ncomponents: [../parts/labels]\nnamespace: shop\n\
         patches: [{path: patch.yaml}, {target: {kind: ConfigMap, name: more}, patch: '[{\"op\": \"add\", \"path\": \"/data/c\", \"value\": \"d\"}]'}]\n\
         configMapGenerator: [{name: made, files: [notes.txt, key=other.txt], envs: [env.txt], literals: [l=1]}]\n\
         generatorOptions: {disableNameSuffixHash: true}\ntransformers: [suffix.yaml]\n",
    );
    reader.write("prod/more.yaml", &config("more"));
    reader.write(
        "prod/patch.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: shop}\ndata: {a: patched}\n",
    );
    reader.write("prod/notes.txt", "notes").write("prod/other.txt", "other").write("prod/env.txt", "E=1\n");
    reader.write("prod/suffix.yaml", "apiVersion: builtin\nkind: SuffixTransformer\nmetadata: {name: s}\nsuffix: -x\nfieldSpecs: [{path: metadata/name, kind: ConfigMap}]\n");
    reader.write(
        "parts/labels/kustomization.yml",
        "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nlabels: [{pairs: {part: labels}}]\n",
    );
    let content = reader.read(&[]).await;
    assert_eq!(said(&content), [] as [String; 0]);
    let found = |name: &str| {
        let item = content
            .items
            .iter()
            .find(|item| item.id.name == name)
            .unwrap_or_else(|| panic!("{:?}", names(&content)));
        assert_eq!(item.value.open()["metadata"]["labels"], json!({"part": "labels"}), "{name}");
        item.value.open()["data"].clone()
    };
    assert_eq!(found("settings-x"), json!({"a": "patched"}));
    assert_eq!(found("more-x"), json!({"a": "b", "c": "d"}));
    assert_eq!(found("made-x"), json!({"notes.txt": "notes", "key": "other", "E": "1", "l": "1"}));
}

/// If this fails a commit makes the operator reach out, run programs or read its own disk; or one that tries stops the others.
#[tokio::test]
async fn what_an_overlay_may_not_do_is_refused_by_name_and_the_others_go_on() {
    let reader = Reader::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let url = format!("http://{}/all.yaml", server.local_addr().unwrap());
    reader.base_and_overlays(&["prod"]);
    let bad = [
        ("remote", format!("resources: ['{url}']\n"), "resources: \"http://127.0.0.1"),
        (
            "host",
            "resources: ['github.com/org/repo']\n".to_owned(),
            "resources: \"github.com/org/repo\" names a repository on another host",
        ),
        ("outside", "resources: [../../../../etc]\n".to_owned(), "leaves the repository"),
        (
            "helm",
            "helmCharts: [{name: x, repo: 'https://example.com'}]\n".to_owned(),
            "helmCharts: Helm charts are not rendered",
        ),
        (
            "plugin",
            "transformers: ['run.yaml']\n".to_owned(),
            "only kustomize's own (apiVersion: builtin) are run",
        ),
        ("link", "resources: [link.yaml]\n".to_owned(), "symbolic links are not followed"),
        (
            "absent",
            "patches: [{path: none.yaml}]\n".to_owned(),
            "patches.path: the commit has no bad/absent/none.yaml",
        ),
        ("twice", "resources: []\n".to_owned(), "more than one kustomization"),
    ];
    assert_eq!(names(&reader.read(&[]).await), ["prod-settings"]);
    for (name, text, _) in &bad {
        reader.write(&format!("bad/{name}/kustomization.yaml"), text);
    }
    reader.write("bad/plugin/run.yaml", "apiVersion: example.com/v1\nkind: Run\nmetadata: {name: r, annotations: {config.kubernetes.io/function: 'exec: {path: /bin/sh}'}}\n");
    reader.write("bad/twice/kustomization.yml", "resources: []\n");
    std::os::unix::fs::symlink("/etc/passwd", reader.repo.path().join("bad/link/link.yaml")).unwrap();
    let content = reader.read(&[]).await;
    assert_eq!(names(&content), ["prod-settings"], "{:?}", said(&content));
    assert!(content.partial, "nothing may be pruned");
    for (name, _, why) in &bad {
        let path = format!("bad/{name}/kustomization.yaml");
        let of: Vec<String> = said(&content)
            .into_iter()
            .filter(|said| said.starts_with("bad/") && said.contains(&format!("bad/{name}/")))
            .collect();
        assert!(of.iter().any(|said| said.contains(why)), "{path}: {of:?}");
    }
    assert!(
        !said(&content).iter().any(|said| said.contains(reader.cache.path().to_str().unwrap())),
        "{:?}",
        said(&content)
    );
    // Through another one, and a file that is no part of it.
    reader.write("deep/kustomization.yaml", "resources: [../bad/remote]\n");
    reader.write(
        "beside/kustomization.yaml",
        "configMapGenerator: [{name: a, files: [../base/config.yaml]}]\n",
    );
    let content = reader.read(&["deep", "beside"]).await;
    assert_eq!(names(&content), [] as [&str; 0]);
    let said = said(&content);
    assert!(
        said[0].starts_with("beside/kustomization.yaml: the overlay is not built: kustomize refuses it: "),
        "{said:?}"
    );
    assert!(said[0].contains("base/config.yaml' is not in or below"), "{said:?}");
    assert!(said[1].starts_with("bad/remote/kustomization.yaml: resources: \"http://"), "{said:?}");
    assert!(!said.iter().any(|said| said.contains(reader.cache.path().to_str().unwrap())), "{said:?}");
    assert!(server.accept().is_err(), "nobody came");
}

/// If this fails a slip in one overlay applies its base as it stands, over what the overlay made.
#[tokio::test]
async fn a_slip_in_an_overlay_makes_no_workload_of_its_base_and_hides_no_other() {
    let slips = [
        "resources: [../../base\n",
        "resources: [../../bsae]\n",
        "helmCharts: []\nresources: [../../base]\n",
    ];
    for slip in slips {
        let reader = Reader::new();
        reader.base_and_overlays(&["prod"]);
        reader
            .write("apps/kustomization.yaml", "resources: [app.yaml]\n")
            .write("apps/app.yaml", &config("app"));
        let good =
            std::fs::read_to_string(reader.repo.path().join("overlays/prod/kustomization.yaml")).unwrap();
        reader.write("overlays/prod/kustomization.yaml", slip);
        // Nobody has seen it whole: whose base is whose is not known.
        let content = reader.read(&[]).await;
        assert_eq!(names(&content), [] as [&str; 0]);
        let said = said(&content);
        assert!(said.iter().any(|said| said.starts_with("overlays/prod/kustomization.yaml:")), "{said:?}");
        assert!(
            said.iter().any(|said| said.starts_with("base/kustomization.yaml: it is not built while")),
            "{said:?}"
        );
        reader.write("overlays/prod/kustomization.yaml", &good);
        assert_eq!(names(&reader.read(&[]).await), ["app", "prod-settings"]);
        reader.write("overlays/prod/kustomization.yaml", slip);
        let content = reader.read(&[]).await;
        assert_eq!(names(&content), ["app"], "{slip}");
        assert!(content.partial, "{slip}");
    }
}

/// If this fails a link where a kustomization is expected makes plain manifests of an overlay's files.
#[tokio::test]
async fn a_kustomization_that_is_a_link_is_refused_with_its_directory() {
    let reader = Reader::new();
    reader.base_and_overlays(&[]);
    reader.write("prod/plain.yaml", &config("plain"));
    std::os::unix::fs::symlink(
        "../base/kustomization.yaml",
        reader.repo.path().join("prod/kustomization.yaml"),
    )
    .unwrap();
    let content = reader.read(&["prod"]).await;
    assert_eq!(names(&content), [] as [&str; 0]);
    assert_eq!(said(&content), ["prod/kustomization.yaml: symbolic links are not followed"]);
}

/// If this fails every look runs kustomize again for every overlay.
#[tokio::test]
async fn what_did_not_change_is_not_built_again() {
    let reader = Reader::new();
    reader.base_and_overlays(&["prod", "test"]);
    assert_eq!(reader.read(&[]).await.items.len(), 2);
    reader.write("overlays/test/kustomization.yaml", "resources: [../../base]\nnamePrefix: other-\n");
    let absent = Kustomize::new(reader.cache.path(), Some(PathBuf::from("/nonexistent/kustomize")));
    let content = reader.read_with(&[], absent).await;
    assert_eq!(names(&content), ["prod-settings"]);
    let said = said(&content);
    assert!(said[0].starts_with("overlays/test/kustomization.yaml: the overlay is not built: there is no kustomize at /nonexistent/kustomize"), "{said:?}");
    // It was the program that was missing: with it, the same files are built.
    assert_eq!(names(&reader.read(&[]).await), ["prod-settings", "other-settings"]);
}

#[tokio::test]
async fn what_kustomize_makes_is_read_as_strictly_as_a_file() {
    let reader = Reader::new();
    reader.write("kustomization.yaml", "resources: [policy.yaml]\n");
    reader.write("policy.yaml", "apiVersion: countersign.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {name: p, namespace: x}\nspec: {mode: Enforce, signatures: []}\n");
    let content = reader.read(&[]).await;
    assert!(content.items.is_empty() && content.partial);
    let said = said(&content);
    assert!(said[0].starts_with("kustomization.yaml: ImagePolicy x/p: spec.signatures"), "{said:?}");
}

/// A program in kustomize's place. It is written by another process: a file that this one had open could not be run while
/// another thread starts a program.
fn script(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("kustomize");
    let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod +x \"$2\"";
    let status = Command::new("sh").args(["-c", write, "sh", text]).arg(&path).status().unwrap();
    assert!(status.success());
    path
}

fn build(text: &str, bounds: Bounds, files: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let directory = TempDir::new().unwrap();
    let program = script(directory.path(), text);
    let cache = directory.path().join("cache");
    let files: Vec<(String, Vec<u8>)> =
        files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect();
    let result = Kustomize::with_bounds(&cache, Some(program), bounds).build("a/b", &files);
    assert_eq!(std::fs::read_dir(cache.join("kustomize")).unwrap().count(), 0, "nothing stays on the disk");
    result
}

fn small() -> Bounds {
    Bounds { time: Duration::from_secs(20), cpu_seconds: 20, memory: 1 << 30, output: 1 << 20 }
}

#[test]
fn a_kustomize_without_an_end_is_killed_with_all_that_it_started() {
    let began = Instant::now();
    let bounds = Bounds { time: Duration::from_millis(300), ..small() };
    // The second one holds the pipes open.
    let result = build("(while :; do :; done) & while :; do :; done", bounds.clone(), &[]);
    assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
    let result = build("(while :; do :; done) & exit 0", bounds, &[]);
    assert_eq!(result.unwrap(), b"");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let result = build("while :; do :; done", Bounds { cpu_seconds: 1, ..small() }, &[]);
    assert!(matches!(result, Err(Error::Failed { .. })), "{result:?}");
}

#[test]
fn a_kustomize_that_writes_or_takes_without_bound_is_stopped() {
    let result = build("while :; do echo 'kind: ConfigMap'; done", small(), &[]);
    assert!(matches!(result, Err(Error::TooLarge { bound }) if bound == 1 << 20), "{result:?}");
    let result = build("a=x; while :; do a=$a$a; done", Bounds { memory: 64 << 20, ..small() }, &[]);
    assert!(matches!(result, Err(Error::Failed { .. })), "{result:?}");
    // Words do not stop it, and do not fill anything.
    let talk = "i=0; while [ $i -lt 20000 ]; do echo 'Warning: a long word of warning' >&2; i=$((i+1)); done; echo done";
    assert_eq!(build(talk, small(), &[]).unwrap(), b"done\n");
}

/// If this fails overlays see the operator's environment, or whoever reads a status sees what is in a Secret.
#[test]
fn its_surroundings_are_empty_and_its_words_are_harmless() {
    let show =
        "echo \"$PATH|$KUBECONFIG|$CARGO_MANIFEST_DIR|$*\"; pwd; [ -r a/b/c.yaml ] && echo there; ulimit -c";
    let output = String::from_utf8(build(show, small(), &[("a/b/c.yaml", "x")]).unwrap()).unwrap();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "|||build --load-restrictor LoadRestrictionsRootOnly ./a/b");
    assert_eq!(lines[2..], ["there", "0"]);
    assert!(lines[1].ends_with("/repository"), "{lines:?}");

    let fail = "printf 'Error: \\033[2J%s/a/b/c.yaml is bad: hunter2\\n' \"$PWD\" >&2; exit 1";
    match build(fail, small(), &[("a/b/c.yaml", "kind: Deployment, imagePullSecrets: []")]) {
        Err(Error::Failed { said }) => assert_eq!(said, "\\u{1b}[2Ja/b/c.yaml is bad: hunter2"),
        other => panic!("{other:?}"),
    }
    for secret in ["apiVersion: v1\nkind: Secret\n", "{\"kind\":\"Secret\"}", "secretGenerator: []"] {
        let result = build(fail, small(), &[("a/b/c.yaml", secret)]);
        assert!(matches!(result, Err(Error::FailedSecretly)), "{result:?}");
        assert!(!format!("{result:?} {}", result.as_ref().unwrap_err()).contains("hunter2"));
    }
}
