//! Runs the `kustomize` program on files of a commit: with nothing around it, and bounded in all that it may use.
//!
//! Only the files that an overlay names are written out, into a directory that nobody else can read and that is gone
//! afterwards. What they say was checked before (`domain::kustomization`); here the same is held a second time: an empty
//! environment, no program on its `PATH`, no option that runs plugins or Helm, and a process group that is killed when
//! it takes too long or says too much.

use std::{
    fs::{self, DirBuilder},
    io::{self, Read},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf, absolute},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, prlimit, waitid},
};

use super::git::text::printable_up_to;

const NAME: &str = "kustomize";
/// How much of what it says on its standard error is passed on, in characters.
const SAID: usize = 600;

/// What one build may use.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Time by the clock.
    pub time: Duration,
    /// Time of a processor, in seconds: a second wall, in the kernel.
    pub cpu_seconds: u64,
    /// Address space, in bytes. Go's runtime alone takes more than half a GiB of it, and uses little.
    pub memory: u64,
    /// Bytes of its output.
    pub output: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { time: Duration::from_secs(20), cpu_seconds: 30, memory: 2 << 30, output: 8 << 20 }
    }
}

/// The `kustomize` of this machine. A clone is the same.
#[derive(Clone, Debug)]
pub struct Kustomize {
    /// The program that was named; else it is looked for on `PATH`.
    named: Option<PathBuf>,
    directory: PathBuf,
    bounds: Bounds,
    runs: Arc<AtomicU64>,
}

/// Why an overlay was not built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such program.
    #[error("there is no kustomize {}: install kustomize 5 beside the operator, or name it by --kustomize (COUNTERSIGN_KUSTOMIZE)", match named { Some(path) => format!("at {}", path.display()), None => "on PATH".to_owned() })]
    Missing {
        /// Where it was said to be.
        named: Option<PathBuf>,
    },
    /// The cache directory, or the program, cannot be used.
    #[error("cannot {doing}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The time was up.
    #[error("kustomize was killed: it did not end within {after:?}")]
    TimedOut {
        /// The bound.
        after: Duration,
    },
    /// It wrote too much.
    #[error("kustomize was killed: it wrote more than {bound} bytes; split the overlay")]
    TooLarge {
        /// The bound.
        bound: usize,
    },
    /// It refused, in its own words.
    #[error("kustomize refuses it: {said}")]
    Failed {
        /// Printable, and bounded.
        said: String,
    },
    /// It refused, and its words may hold what must not be shown.
    #[error(
        "kustomize refuses it; its words are not shown, as they may hold a Secret of the overlay: run `kustomize build` on it to read them"
    )]
    FailedSecretly,
}

impl Error {
    /// Whether the same files may come out otherwise another time.
    pub fn passes(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::System { .. } | Self::TimedOut { .. } => true,
            Self::TooLarge { .. } | Self::Failed { .. } | Self::FailedSecretly => false,
        }
    }
}

impl Kustomize {
    /// With files written out below `cache_dir`; `named` is the program, else it is looked for on `PATH`.
    pub fn new(cache_dir: &Path, named: Option<PathBuf>) -> Self {
        Self::with_bounds(cache_dir, named, Bounds::default())
    }

    /// The same with other bounds.
    pub fn with_bounds(cache_dir: &Path, named: Option<PathBuf>, bounds: Bounds) -> Self {
        let directory = cache_dir.join(NAME);
        // What a killed process left; what cannot be removed is only lost space.
        let _ = fs::remove_dir_all(&directory);
        Self { named, directory, bounds, runs: Arc::default() }
    }

    /// Builds the overlay in `directory` from files by their path from the root of the repository. Blocks.
    ///
    /// *Guarantees*: it returns within the bounds and a moment; no process and no file is left.
    pub fn build(&self, directory: &str, files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Error> {
        let program = self.program()?;
        let export = self.export(files)?;
        let ran = run(&program, &export, directory, &self.bounds)?;
        if ran.status.success() {
            return Ok(ran.output);
        }
        if files.iter().any(|(_, bytes)| holds_secret(bytes)) {
            return Err(Error::FailedSecretly);
        }
        let root = export.root.display().to_string();
        let said = String::from_utf8_lossy(&ran.said).replace(&format!("{root}/"), "").replace(&root, ".");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let said = said.trim_start_matches("Error: ");
        Err(Error::Failed {
            said: printable_up_to(if said.is_empty() { "it says nothing" } else { said }, SAID),
        })
    }

    fn program(&self) -> Result<PathBuf, Error> {
        let missing = || Error::Missing { named: self.named.clone() };
        let found = if let Some(named) = &self.named {
            named.is_file().then(|| named.clone())
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|directory| directory.join(NAME)).find(|file| file.is_file())
        };
        // It is run in another directory.
        absolute(found.ok_or_else(missing)?)
            .map_err(|source| Error::System { doing: "find kustomize", source })
    }

    fn export(&self, files: &[(String, Vec<u8>)]) -> Result<Export, Error> {
        let storage = |source| Error::System { doing: "write files out below the cache directory", source };
        let private = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        fs::create_dir_all(&self.directory).map_err(storage)?;
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let top = absolute(self.directory.join(format!("{}-{run}", std::process::id()))).map_err(storage)?;
        private(&top).map_err(storage)?;
        let export = Export { root: top.join("repository"), home: top.join("home"), top };
        private(&export.root).and_then(|()| private(&export.home)).map_err(storage)?;
        for (path, bytes) in files {
            let path = export.root.join(path);
            let parent = path.parent().unwrap_or(&export.root);
            fs::create_dir_all(parent).and_then(|()| fs::write(&path, bytes)).map_err(storage)?;
        }
        Ok(export)
    }
}

/// Files written out; gone with it.
struct Export {
    top: PathBuf,
    root: PathBuf,
    home: PathBuf,
}

impl Drop for Export {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.top);
    }
}

struct Ran {
    status: ExitStatus,
    output: Vec<u8>,
    said: Vec<u8>,
}

fn run(program: &Path, export: &Export, directory: &str, bounds: &Bounds) -> Result<Ran, Error> {
    let system = |doing| move |source| Error::System { doing, source };
    let mut command = Command::new(program);
    command.args(["build", "--load-restrictor", "LoadRestrictionsRootOnly"]).arg(format!("./{directory}"));
    command.current_dir(&export.root).env_clear().env("PATH", "").env("HOME", &export.home);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(system("start kustomize"))?;
    let group = Pid::from_child(&child);
    let kill = || {
        // An error says that it is gone already.
        let _ = kill_process_group(group, Signal::KILL);
    };
    if let Err(error) = limit(group, bounds) {
        kill();
        let _ = child.wait();
        return Err(system("bound what kustomize may use")(error.into()));
    }
    let (too_large, timed_out) = (AtomicBool::new(false), AtomicBool::new(false));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ran = thread::scope(|scope| {
        let output = scope.spawn(|| {
            let (bytes, whole) = bounded(stdout, bounds.output);
            if !whole {
                too_large.store(true, Ordering::Relaxed);
                kill();
            }
            bytes
        });
        // Its words are cut, not its life: whatever else it says goes nowhere.
        let said = scope.spawn(|| bounded_words(stderr));
        let (ended, end) = mpsc::channel::<()>();
        let timed_out = &timed_out;
        scope.spawn(move || {
            if end.recv_timeout(bounds.time) == Err(mpsc::RecvTimeoutError::Timeout) {
                timed_out.store(true, Ordering::Relaxed);
                kill();
            }
        });
        let status = wait(&mut child, group);
        drop(ended);
        let joined = |read: thread::ScopedJoinHandle<'_, Vec<u8>>| read.join().unwrap_or_default();
        status.map(|status| Ran { status, output: joined(output), said: joined(said) })
    });
    if timed_out.into_inner() {
        return Err(Error::TimedOut { after: bounds.time });
    }
    if too_large.into_inner() {
        return Err(Error::TooLarge { bound: bounds.output });
    }
    ran.map_err(system("wait for kustomize"))
}

/// Waits for its end, and then for everything that it may have started.
fn wait(child: &mut Child, group: Pid) -> io::Result<ExitStatus> {
    // Not reaped yet, so that nobody else can have got its number when the group is killed.
    while let Err(error) = waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
        if error != Errno::INTR {
            break;
        }
    }
    let _ = kill_process_group(group, Signal::KILL);
    child.wait()
}

fn limit(pid: Pid, bounds: &Bounds) -> Result<(), Errno> {
    let limits = [
        (Resource::As, bounds.memory),
        (Resource::Cpu, bounds.cpu_seconds),
        // It writes no file, and leaves no picture of its memory.
        (Resource::Fsize, 0),
        (Resource::Core, 0),
    ];
    for (resource, most) in limits {
        match prlimit(Some(pid), resource, Rlimit { current: Some(most), maximum: Some(most) }) {
            Ok(_) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// All that can be read, if it is not more than this.
fn bounded(stream: Option<impl Read>, bound: usize) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let Some(stream) = stream else { return (bytes, true) };
    // What breaks off counts as the end: how it ended shows in the status.
    let _ = stream.take(bound as u64 + 1).read_to_end(&mut bytes);
    let whole = bytes.len() <= bound;
    (bytes, whole)
}

fn bounded_words(stream: Option<impl Read>) -> Vec<u8> {
    const WORDS: usize = 64 << 10;
    let Some(mut stream) = stream else { return Vec::new() };
    let (words, _) = bounded(Some(&mut stream), WORDS);
    let _ = io::copy(&mut stream, &mut io::sink());
    words
}

/// Whether a file may hold a Secret, or what makes one: `kind: Secret`, `secretGenerator`.
fn holds_secret(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c)).any(|found| matches!(found, "Secret" | "secretGenerator" | "SecretGenerator"))
}
