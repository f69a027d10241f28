//! What a repository keeps out of its sources: files named `.countersignignore`, with the rules of `.gitignore`.
//!
//! An ignore file that cannot be read, or a line of it, ignores nothing and is named: a slip in it must not hide a
//! revocation.

use std::path::Path;

use ignore::{
    Match,
    gitignore::{Gitignore, GitignoreBuilder},
};

use super::{BlobId, CommitId, Error, Mirror, lookup::At, tree::Reason};

/// The name of an ignore file.
pub(super) const FILE: &str = ".countersignignore";
/// How large one may be, and how many of them count in one commit.
const BYTES: u64 = 64 << 10;
const LINES: usize = 2_000;
const FILES: usize = 1_000;

/// The ignore files from the root down to the directory that is being read.
#[derive(Default)]
pub(super) struct Ignored {
    levels: Vec<Level>,
    read: usize,
}

struct Level {
    /// How long the path of its directory is, with a slash.
    directory: usize,
    rules: Gitignore,
}

impl Ignored {
    /// Reads the ignore files of the directories around `path`; answers with what is wrong with them.
    pub fn around(
        &mut self,
        mirror: &Mirror,
        commit: CommitId,
        path: &str,
    ) -> Result<Vec<(String, Reason)>, Error> {
        self.levels.clear();
        let mut wrong = Vec::new();
        let ends = path.match_indices('/').map(|(at, _)| at);
        let around = if path.is_empty() { None } else { Some(0) };
        for directory in around.into_iter().chain(ends).map(|end| &path[..end]) {
            let file = super::tree::join(directory, FILE);
            let reason = match mirror.at(commit, &file)? {
                At::Nothing | At::Directory => None,
                At::Refused(reason) => Some(reason),
                At::File { blob, size } => self.enter(mirror, directory, blob, size)?,
            };
            wrong.extend(reason.map(|reason| (file, reason)));
        }
        Ok(wrong)
    }

    /// Reads the ignore file of a directory that is about to be read; answers with what is wrong with it.
    pub fn enter(
        &mut self,
        mirror: &Mirror,
        directory: &str,
        blob: BlobId,
        size: u64,
    ) -> Result<Option<Reason>, Error> {
        self.read += 1;
        if self.read > FILES {
            return Ok(Some(Reason::IgnoreFile(format!("the commit has more than {FILES} of them"))));
        }
        if size > BYTES {
            return Ok(Some(Reason::IgnoreFile(format!("it has {size} bytes, and the bound is {BYTES}"))));
        }
        let bytes = mirror.blob(blob)?;
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return Ok(Some(Reason::IgnoreFile("it is not UTF-8".to_owned())));
        };
        let (rules, wrong) = rules(text);
        self.levels.extend(rules.map(|rules| {
            let directory = if directory.is_empty() { 0 } else { directory.len() + 1 };
            Level { directory, rules }
        }));
        Ok(wrong)
    }

    /// How many ignore files count now.
    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    /// Leaves the directories whose ignore files came after `depth`.
    pub fn leave(&mut self, depth: usize) {
        self.levels.truncate(depth);
    }

    pub fn directory(&self, path: &str) -> bool {
        self.matches(|rules, below| rules.matched(below, true), path)
    }

    pub fn file(&self, path: &str) -> bool {
        self.matches(|rules, below| rules.matched(below, false), path)
    }

    /// The innermost file that says anything decides, and in it the last line, as in git.
    fn matches(
        &self,
        matched: impl for<'a> Fn(&'a Gitignore, &Path) -> Match<&'a ignore::gitignore::Glob>,
        path: &str,
    ) -> bool {
        let said = |level: &Level| match matched(&level.rules, Path::new(path.get(level.directory..)?)) {
            Match::None => None,
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
        };
        self.levels.iter().rev().find_map(said).unwrap_or(false)
    }
}

/// The lines that are patterns, and the first one that is none.
fn rules(text: &str) -> (Option<Gitignore>, Option<Reason>) {
    let mut wrong = None;
    // Paths are told relative to the directory already.
    let mut builder = GitignoreBuilder::new(".");
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line_is = |what: &str| Reason::IgnoreFile(format!("line {} {what}", number + 1));
        if number >= LINES {
            wrong.get_or_insert(line_is("and those after it are too many"));
            break;
        }
        if builder.add_line(None, line).is_err() {
            wrong.get_or_insert(line_is("is no pattern as .gitignore has them; correct it"));
        }
    }
    match builder.build() {
        Ok(rules) if rules.is_empty() => (None, wrong),
        Ok(rules) => (Some(rules), wrong),
        Err(_) => (None, Some(Reason::IgnoreFile("its patterns together are too large".to_owned()))),
    }
}
