//! Overlays: directories with a kustomization, which kustomize builds, and whose files are no manifests of their own.
//!
//! Which are built: of the directories with a kustomization below the source's `paths` the outermost ones, but for those
//! that another one takes as its base or component. So `base/` beside `overlays/prod/` is applied as a part of `prod` only,
//! and both of `overlays/prod/` and `overlays/test/` are built where the source names neither. A directory that `paths` names is
//! always built. What an overlay takes may stand anywhere in the repository, also outside of `paths`.
//!
//! A kustomization with which something is wrong goes on to reach what it reached before, so that its base is not suddenly
//! applied as it stands. Where nobody knows that, what was not built before waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use super::content::{File, Problem, read_file};
use crate::{
    adapters::{
        chain,
        git::{self, At, BlobId, CommitId, Mirror, Tree, normal_paths},
        kustomize::{self, Kustomize},
    },
    domain::{
        kustomization::{self, FILE_NAMES, Kustomization, Reach, Reference, What},
        manifest::{self, Limits},
    },
};

/// How many overlays one source may have.
const OVERLAYS: usize = 500;
/// How many files, and bytes, one overlay may take.
const FILES: usize = 2_000;
const BYTES: u64 = 32 << 20;
/// How long all builds of one look may take. What was built is kept, so that the next look comes further.
const PATIENCE: Duration = Duration::from_mins(1);

/// The files an overlay was built from.
type Fingerprint = [u8; 32];

/// What was built before.
#[derive(Debug, Default)]
pub(super) struct Built {
    /// By what it was built from. Two generations: while a commit is held back, two commits are read in turns.
    now: BTreeMap<Fingerprint, Arc<File>>,
    before: BTreeMap<Fingerprint, Arc<File>>,
    /// What each kustomization reached when nothing was wrong with it: a slip in one must not make a workload of its base.
    reach: BTreeMap<String, Reach>,
    /// Those that were built.
    roots: BTreeSet<String>,
}

/// The overlays of a commit.
#[derive(Debug, Default)]
pub(super) struct Overlays {
    /// What they came to, by their kustomization.
    pub files: Vec<(String, Arc<File>)>,
    /// Directories with a kustomization: what is below is not read as plain manifests.
    directories: BTreeSet<String>,
    /// Something may come out otherwise the next time, although the commit is the same.
    pub passing: bool,
}

impl Overlays {
    fn refuse(&mut self, file: String, why: String) {
        let broken = broken(vec![problem(&file, why)]);
        self.files.push((file, broken));
    }

    /// Whether a file belongs to an overlay.
    pub fn own(&self, path: &str) -> bool {
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        !self.directories.is_empty()
            && std::iter::once("").chain(parents).any(|directory| self.directories.contains(directory))
    }
}

/// Builds the overlays of a commit. Blocks.
pub(super) fn read(
    kustomize: &Kustomize,
    built: &mut Built,
    (mirror, commit): (&Mirror, CommitId),
    tree: &Tree,
    paths: &[String],
) -> Result<Overlays, git::Error> {
    let directories = outermost(tree);
    let mut gathered = BTreeMap::new();
    for directory in directories.iter().take(OVERLAYS) {
        gathered.insert(directory.clone(), Gathered::of(mirror, commit, directory)?);
    }
    let reach: BTreeMap<String, Reach> = gathered
        .iter()
        .map(|(directory, found)| {
            let known = || built.reach.get(directory).cloned().unwrap_or(Reach::Unknown);
            (directory.clone(), found.reach().unwrap_or_else(known))
        })
        .collect();
    let roots = kustomization::roots(&normal_paths(paths)?, &built.roots, &reach);
    built.before = std::mem::take(&mut built.now);
    (built.reach, built.roots) = (reach, roots.built.clone());
    let mut overlays = Overlays::default();
    let (began, mut shown) = (Instant::now(), BTreeSet::new());
    for directory in &roots.built {
        let found = &gathered[directory];
        let file = if found.problems.is_empty() {
            let left = PATIENCE.saturating_sub(began.elapsed());
            found.build(kustomize, built, mirror, directory, left)?
        } else {
            // Overlays of one base share what is wrong with it.
            let new = found.problems.iter().filter(|problem| shown.insert((*problem).clone()));
            Outcome::Lasting(broken(new.cloned().collect()))
        };
        let file = match file {
            Outcome::Lasting(file) => file,
            Outcome::Passing(file) => {
                overlays.passing = true;
                file
            }
        };
        overlays.files.push((found.file.clone(), file));
    }
    for directory in &roots.doubtful {
        let why = "it is not built while there is another kustomization in the source with which something is wrong: that one may take it as its base; mend the other, or name this one in the source's paths";
        overlays.refuse(gathered[directory].file.clone(), why.to_owned());
    }
    for directory in directories.iter().skip(OVERLAYS) {
        let why = format!("the source has more than {OVERLAYS} overlays; split it into several sources");
        overlays.refuse(join(directory, FILE_NAMES[0]), why);
    }
    overlays.directories = directories;
    Ok(overlays)
}

/// What was built of an overlay while going back through a log.
#[derive(Debug, Default)]
pub(super) struct Past {
    seen: BTreeSet<Fingerprint>,
    /// How often it was built, or it was tried.
    pub builds: usize,
}

impl Past {
    /// What an overlay came to in a commit, if it was not built from the same files in one that was looked at before; nothing
    /// where something is wrong with it. Blocks.
    pub fn build(
        &mut self,
        kustomize: &Kustomize,
        (mirror, commit): (&Mirror, CommitId),
        directory: &str,
    ) -> Result<Option<File>, git::Error> {
        let gathered = Gathered::of(mirror, commit, directory)?;
        let right = gathered.problems.is_empty() && !gathered.component;
        if !self.seen.insert(gathered.fingerprint(directory)) || !right {
            return Ok(None);
        }
        self.builds += 1;
        match gathered.run(kustomize, mirror, directory)? {
            Ok(output) => Ok(Some(read_output(&gathered.file, &output))),
            Err(error) => {
                tracing::debug!(overlay = directory, %commit, error = chain(&error), "an earlier version is not built");
                Ok(None)
            }
        }
    }

    /// Notes what an overlay is built from in a commit. Blocks.
    pub fn note(&mut self, mirror: &Mirror, commit: CommitId, directory: &str) -> Result<(), git::Error> {
        self.seen.insert(Gathered::of(mirror, commit, directory)?.fingerprint(directory));
        Ok(())
    }
}

/// What belongs to overlays in a tree, without building them.
pub(super) fn directories(tree: &Tree) -> Overlays {
    Overlays { directories: outermost(tree), ..Overlays::default() }
}

/// The outermost directories with a kustomization, also one that cannot be read.
fn outermost(tree: &Tree) -> BTreeSet<String> {
    let paths =
        tree.entries.iter().map(|entry| &entry.path).chain(tree.refused.iter().map(|refused| &refused.path));
    let directories = paths.filter_map(|path| {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        FILE_NAMES.contains(&name).then(|| directory.to_owned())
    });
    let all = Overlays { directories: directories.collect(), ..Overlays::default() };
    all.directories.iter().filter(|directory| directory.is_empty() || !all.own(directory)).cloned().collect()
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

fn problem(file: &str, message: String) -> Problem {
    Problem { path: file.to_owned(), line: None, document: None, object: None, message }
}

fn broken(problems: Vec<Problem>) -> Arc<File> {
    Arc::new(File { items: Vec::new(), problems, skipped: 0, unreadable: true })
}

enum Outcome {
    /// The same files come to the same.
    Lasting(Arc<File>),
    /// It may come out otherwise: the program was missing, or the time was up.
    Passing(Arc<File>),
}

/// Everything that one overlay is built from.
#[derive(Debug, Default)]
struct Gathered {
    /// Its kustomization.
    file: String,
    component: bool,
    directories: BTreeSet<String>,
    blobs: BTreeMap<String, BlobId>,
    bytes: u64,
    problems: BTreeSet<Problem>,
}

impl Gathered {
    fn of(mirror: &Mirror, commit: CommitId, root: &str) -> Result<Self, git::Error> {
        let mut gathered = Self { file: join(root, FILE_NAMES[0]), ..Self::default() };
        let mut todo = vec![root.to_owned()];
        while let Some(directory) = todo.pop() {
            if !gathered.directories.insert(directory.clone()) {
                continue;
            }
            let Some((file, read)) = gathered.kustomization(mirror, commit, &directory)? else { continue };
            if directory == root {
                (gathered.component, gathered.file) = (read.component, file.clone());
            }
            gathered.take(mirror, commit, &directory, &file, read, &mut todo)?;
            if gathered.blobs.len() > FILES || gathered.bytes > BYTES {
                let why = format!("it takes more than {FILES} files or {BYTES} bytes; split it");
                gathered.problems.insert(problem(&gathered.file, why));
                break;
            }
        }
        Ok(gathered)
    }

    /// What it reaches, if nothing is wrong with it.
    fn reach(&self) -> Option<Reach> {
        match self.problems.is_empty() {
            true if self.component => Some(Reach::Component),
            true => Some(Reach::Known(self.directories.clone())),
            false => None,
        }
    }

    /// The kustomization of a directory, with its path; none where it cannot be read, and why is noted.
    fn kustomization(
        &mut self,
        mirror: &Mirror,
        commit: CommitId,
        directory: &str,
    ) -> Result<Option<(String, Kustomization)>, git::Error> {
        let mut found = Vec::new();
        for name in FILE_NAMES {
            let path = join(directory, name);
            match mirror.at(commit, &path)? {
                At::Nothing | At::Directory => {}
                At::File { blob, size } => found.push((path, blob, size)),
                At::Refused(reason) => {
                    self.note(&path, None, reason.to_string());
                    return Ok(None);
                }
            }
        }
        let [(path, blob, size)] = found.as_slice() else {
            let what = if found.is_empty() { "no kustomization" } else { "more than one kustomization" };
            self.note(&join(directory, FILE_NAMES[0]), None, format!("the directory has {what}"));
            return Ok(None);
        };
        self.add(path, *blob, *size);
        let (documents, errors) = manifest::documents(path, &mirror.blob(*blob)?, &Limits::default());
        if let ([only], true) = (documents.as_slice(), errors.is_empty()) {
            return Ok(Some((path.clone(), kustomization::read(directory, &only.value))));
        }
        if errors.is_empty() {
            self.note(path, None, format!("it holds {} documents; expected one", documents.len()));
        }
        for error in errors {
            self.note(path, error.line, error.message);
        }
        Ok(None)
    }

    /// Takes what a kustomization names; directories are left to do.
    fn take(
        &mut self,
        mirror: &Mirror,
        commit: CommitId,
        directory: &str,
        file: &str,
        read: Kustomization,
        todo: &mut Vec<String>,
    ) -> Result<(), git::Error> {
        for why in read.refused {
            self.note(file, None, why);
        }
        let mut references = read.references;
        while let Some(Reference { field, path, what }) = references.pop() {
            let named = if path.is_empty() { "the root" } else { &path };
            match (mirror.at(commit, &path)?, what) {
                (At::File { blob, size }, What::File | What::Either) => self.add(&path, blob, size),
                (At::File { blob, size }, What::Plugins) => {
                    self.add(&path, blob, size);
                    let (documents, errors) =
                        manifest::documents(&path, &mirror.blob(blob)?, &Limits::default());
                    for error in errors {
                        self.note(&path, error.line, error.message);
                    }
                    for document in documents {
                        let plugin = kustomization::read_plugin(directory, &field, &document.value);
                        for why in plugin.refused {
                            self.note(&path, Some(document.line), why);
                        }
                        references.extend(plugin.references);
                    }
                }
                (At::Directory, What::Directory | What::Either) => todo.push(path),
                (At::Directory, What::File | What::Plugins) => {
                    self.note(file, None, format!("{field}: {named} is a directory; expected a file"));
                }
                (At::File { .. }, What::Directory) => {
                    self.note(file, None, format!("{field}: {named} is a file; expected a directory"));
                }
                (At::Nothing, _) => {
                    self.note(file, None, format!("{field}: the commit has no {named}"));
                }
                (At::Refused(reason), _) => self.note(file, None, format!("{field}: {named}: {reason}")),
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &str, blob: BlobId, size: u64) {
        if self.blobs.insert(path.to_owned(), blob).is_none() {
            self.bytes += size;
        }
    }

    fn note(&mut self, path: &str, line: Option<usize>, message: String) {
        self.problems.insert(Problem { path: path.to_owned(), line, document: None, object: None, message });
    }

    fn build(
        &self,
        kustomize: &Kustomize,
        built: &mut Built,
        mirror: &Mirror,
        directory: &str,
        left: Duration,
    ) -> Result<Outcome, git::Error> {
        if self.component {
            let why = "a component is a part of other kustomizations and is not built on its own; name one of those";
            return Ok(Outcome::Lasting(broken(vec![problem(&self.file, why.to_owned())])));
        }
        let fingerprint = self.fingerprint(directory);
        if let Some(known) = built.before.get(&fingerprint).cloned() {
            built.now.insert(fingerprint, known.clone());
            return Ok(Outcome::Lasting(known));
        }
        if left.is_zero() {
            let why = "the overlays of the source take too long: this one is built at the next look";
            return Ok(Outcome::Passing(broken(vec![problem(&self.file, why.to_owned())])));
        }
        let file = match self.run(kustomize, mirror, directory)? {
            Ok(output) => Arc::new(read_output(&self.file, &output)),
            Err(error) => {
                let why = format!("the overlay is not built: {}", chain(&error));
                let file = broken(vec![problem(&self.file, why)]);
                if error.passes() {
                    return Ok(Outcome::Passing(file));
                }
                file
            }
        };
        built.now.insert(fingerprint, file.clone());
        Ok(Outcome::Lasting(file))
    }

    fn run(
        &self,
        kustomize: &Kustomize,
        mirror: &Mirror,
        directory: &str,
    ) -> Result<Result<Vec<u8>, kustomize::Error>, git::Error> {
        let mut files = Vec::new();
        for (path, blob) in &self.blobs {
            files.push((path.clone(), mirror.blob(*blob)?));
        }
        Ok(kustomize.build(directory, &files))
    }

    fn fingerprint(&self, directory: &str) -> Fingerprint {
        let mut hash = Sha256::new();
        hash.update(directory);
        for (path, blob) in &self.blobs {
            hash.update([0]);
            hash.update(path);
            hash.update([0]);
            hash.update(blob.to_string());
        }
        hash.finalize().into()
    }
}

/// What kustomize printed, under the same rules as a file. Its lines stand nowhere that a person could look at.
fn read_output(path: &str, output: &[u8]) -> File {
    let mut file = read_file(path, output);
    for item in &mut file.items {
        let item = Arc::make_mut(item);
        (item.line, item.document) = (None, None);
    }
    for problem in &mut file.problems {
        if let (Some(line), None) = (problem.line, &problem.object) {
            problem.message = format!("in what kustomize makes of it, line {line}: {}", problem.message);
        }
        (problem.line, problem.document) = (None, None);
    }
    file
}
