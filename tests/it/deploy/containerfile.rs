//! The Containerfile, read as a builder would, as far as that goes without a registry to build from.

use std::collections::BTreeSet;

use super::{deploy, text};

/// An instruction, its continued lines joined.
struct Instruction {
    name: String,
    rest: String,
}

fn instructions(text: &str) -> Vec<Instruction> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
    let joined = lines.fold(String::new(), |whole, line| match line.strip_suffix('\\') {
        Some(line) => whole + line.trim(),
        None => whole + line + "\n",
    });
    let split = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        Instruction { name: name.to_owned(), rest: rest.trim().to_owned() }
    };
    joined.lines().map(split).collect()
}

/// One stage: its name, what it starts from, and what it does.
struct Stage {
    name: String,
    from: String,
    steps: Vec<Instruction>,
}

/// The arguments before the first stage, and the stages.
fn stages(all: Vec<Instruction>) -> (Vec<Instruction>, Vec<Stage>) {
    let (mut globals, mut stages) = (Vec::new(), Vec::<Stage>::new());
    for instruction in all {
        if instruction.name == "FROM" {
            let words: Vec<&str> = instruction.rest.split_whitespace().collect();
            let [from, "AS", name] = words[..] else { panic!("FROM {}", instruction.rest) };
            stages.push(Stage { name: name.to_owned(), from: from.to_owned(), steps: Vec::new() });
        } else if let Some(stage) = stages.last_mut() {
            stage.steps.push(instruction);
        } else {
            globals.push(instruction);
        }
    }
    (globals, stages)
}

fn named<'a>(stage: &'a Stage, name: &str) -> Vec<&'a str> {
    stage.steps.iter().filter(|step| step.name == name).map(|step| step.rest.as_str()).collect()
}

/// If this fails, the image does not build, or what it builds is not what was reviewed.
#[test]
fn it_builds_from_what_is_here_and_is_pinned() {
    const KNOWN: &[&str] = &["ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"];
    let (globals, stages) = stages(instructions(&text("Containerfile")));
    let argument = |name: &str| {
        let of = globals.iter().find_map(|arg| arg.rest.strip_prefix(&format!("{name}=")));
        of.unwrap_or_else(|| panic!("no ARG {name}")).to_owned()
    };
    let root = deploy("..");
    let ignored = std::fs::read_to_string(root.join(".dockerignore")).unwrap();
    let mut before = BTreeSet::new();
    for stage in &stages {
        let base = stage.from.strip_prefix("${").and_then(|from| from.strip_suffix('}'));
        let image = argument(base.expect("a base image can be pinned by an argument"));
        let (_, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
        assert_ne!(tag, "latest");
        for step in &stage.steps {
            assert!(KNOWN.contains(&step.name.as_str()), "{} {}", step.name, step.rest);
        }
        for copy in named(stage, "COPY") {
            if let Some(rest) = copy.strip_prefix("--from=") {
                let (other, _) = rest.split_once(' ').unwrap();
                assert!(before.contains(other), "{}: {other} comes later or never", stage.name);
                continue;
            }
            let words: Vec<&str> = copy.split_whitespace().collect();
            for source in &words[..words.len() - 1] {
                assert!(root.join(source).exists(), "{source}");
                assert!(ignored.lines().any(|line| line == format!("!{source}")), "{source} is ignored");
            }
        }
        before.insert(stage.name.as_str());
    }
    let toolchain = std::fs::read_to_string(root.join("rust-toolchain.toml")).unwrap();
    let (_, rust) =
        argument("RUST_IMAGE").rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let rust = rust.split('-').next().unwrap();
    assert!(toolchain.contains(&format!("channel = \"{rust}\"")), "{rust}");
    let pins = include_str!("../../controlplane/tools/kustomize/go.mod");
    let install = named(stages.iter().find(|stage| stage.name == "kustomize").unwrap(), "RUN").concat();
    let (package, version) = install.rsplit(' ').next().unwrap().split_once('@').unwrap();
    assert!(pins.contains(&format!("{package} {version}")), "{package} {version}");
    let build = named(stages.iter().find(|stage| stage.name == "build").unwrap(), "RUN").concat();
    assert!(build.contains("--locked") && build.contains("--release"), "{build}");
}

/// If this fails, Pod Security refuses the image's user, or a shell is in it that nobody asked for.
#[test]
fn what_runs_is_no_root_and_the_last_stage_has_no_shell() {
    let (globals, stages) = stages(instructions(&text("Containerfile")));
    for name in ["with-ssh", "run"] {
        let stage = stages.iter().find(|stage| stage.name == name).unwrap();
        assert_eq!(named(stage, "USER"), ["65532:65532"], "a number: restricted Pods check it");
        assert_eq!(named(stage, "ENTRYPOINT"), ["[\"/usr/local/bin/countersign\"]"]);
        assert_eq!(named(stage, "CMD"), ["[\"run\"]"]);
    }
    let last = stages.last().unwrap();
    assert_eq!(last.name, "run");
    assert_eq!(named(last, "RUN"), Vec::<&str>::new(), "there is nothing to run it with");
    assert!(globals.iter().any(|arg| arg.rest.starts_with("RUN_IMAGE=gcr.io/distroless/cc-")));
    let deployment = text("base/deployment.yaml");
    assert!(deployment.contains("runAsUser: 65532") && deployment.contains("fsGroup: 65532"));
}
