//! A real sshd on a high port, with keys of its own.

use std::{
    fs::{self, File},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::controlplane::eventually;

/// Ends the server when standard input does: with this process, whatever ends it.
const UNTIL_WE_END: &str = "\"$@\" & server=$!; read -r _; kill $server";

/// A running sshd that lets in who has the key `user`.
pub struct Sshd {
    pub port: u16,
    directory: TempDir,
    server: Child,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

impl Sshd {
    pub async fn start() -> Self {
        let program = program();
        let mut directory = TempDir::new().unwrap();
        for name in ["host", "user"] {
            make_key(directory.path(), name, "");
        }
        fs::copy(directory.path().join("user.pub"), directory.path().join("authorized_keys")).unwrap();
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let server = spawn(&program, directory.path(), port);
            let mut sshd = Self { port, directory, server };
            if sshd.answers().await {
                return sshd;
            }
            // Somebody else took the port meanwhile.
            directory = std::mem::replace(&mut sshd.directory, TempDir::new().unwrap());
        }
        panic!("sshd finds no port")
    }

    async fn answers(&mut self) -> bool {
        let log = self.directory.path().join("log");
        let port = self.port;
        let mut taken = false;
        eventually("sshd answers", Duration::from_secs(20), async || {
            let said = fs::read_to_string(&log)?;
            if said.contains("Address already in use") {
                taken = true;
                return Ok(());
            }
            TcpStream::connect(("127.0.0.1", port)).with_context(|| said)?;
            Ok(())
        })
        .await;
        !taken
    }

    /// Where a repository is at this server.
    pub fn url(&self, repository: &Path) -> String {
        format!("ssh://{}@127.0.0.1:{}{}", user(), self.port, repository.display())
    }

    /// The private key that is let in.
    pub fn identity(&self) -> String {
        self.read("user")
    }

    /// A private key that nobody knows.
    pub fn stranger(&self) -> String {
        make_key(self.directory.path(), "stranger", "");
        self.read("stranger")
    }

    /// The key that is let in, behind a passphrase.
    pub fn locked(&self, passphrase: &str) -> String {
        make_key(self.directory.path(), "locked", passphrase);
        let allowed = self.read("authorized_keys") + &self.read("locked.pub");
        fs::write(self.directory.path().join("authorized_keys"), allowed).unwrap();
        self.read("locked")
    }

    /// The line of `known_hosts` for this server.
    pub fn known_hosts(&self) -> String {
        format!("[127.0.0.1]:{} {}", self.port, self.read("host.pub"))
    }

    /// The line that it would have with another host key.
    pub fn other_known_hosts(&self) -> String {
        format!("[127.0.0.1]:{} {}", self.port, self.read("user.pub"))
    }

    /// What the server noted.
    pub fn log(&self) -> String {
        self.read("log")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap()
    }
}

fn program() -> PathBuf {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"].map(PathBuf::from);
    let found = places.into_iter().find(|path| path.exists());
    found.expect("this test needs sshd: apt-get install openssh-server (and openssh-client)")
}

fn user() -> String {
    let named = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(named.stdout).unwrap().trim().to_owned()
}

fn make_key(directory: &Path, name: &str, passphrase: &str) {
    let file = directory.join(name);
    let _ = fs::remove_file(&file);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-C", name, "-N", passphrase, "-f"])
        .arg(&file)
        .output()
        .expect("this test needs ssh-keygen: apt-get install openssh-client");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn spawn(program: &Path, directory: &Path, port: u16) -> Child {
    // The one thing that sshd wants of the system when root starts it.
    if user() == "root" {
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let at = directory.display();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nPidFile none\nAuthorizedKeysFile {at}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nLogLevel VERBOSE\n"
    );
    fs::write(directory.join("config"), config).unwrap();
    let log = File::create(directory.join("log")).unwrap();
    Command::new("sh")
        .args(["-c", UNTIL_WE_END, "sshd"])
        .arg(program)
        .args(["-D", "-e", "-f"])
        .arg(directory.join("config"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Whether a file's content is anywhere below a directory. A file that goes while it is looked for (git's temporary ones) holds
/// nothing any more.
pub fn holds(directory: &Path, secret: &str) -> anyhow::Result<bool> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        let found = if path.is_dir() {
            holds(&path, secret)?
        } else {
            match fs::read(&path) {
                Ok(content) => content.windows(secret.len()).any(|window| window == secret.as_bytes()),
                Err(error) if gone(&error) => false,
                Err(error) => return Err(error.into()),
            }
        };
        if found {
            return Ok(true);
        }
    }
    ensure!(!secret.is_empty(), "nothing to look for");
    Ok(false)
}
