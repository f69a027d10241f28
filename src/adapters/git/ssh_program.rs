//! The ssh program: how it is run, and what it means when it fails.
//!
//! It sees nothing of this machine but what it needs: no configuration, no agent, no environment. Its keys stand in a directory
//! of their own for as long as it runs.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use secrecy::ExposeSecret as _;
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
};

use super::{
    Error,
    credentials::SshKeys,
    location::SshAddress,
    session::Session,
    text::{printable, printable_bytes},
};

/// How much of its standard error is kept.
const SAID: usize = 8 << 10;
/// How long after its output it may take to end.
const END: Duration = Duration::from_secs(2);

const IDENTITY: &str = "identity";
const KNOWN_HOSTS: &str = "known_hosts";
const PASSPHRASE: &str = "passphrase";
const ASKPASS: &str = "askpass";

/// Options that hold for every host. What is not named here keeps the program's own default: with `-F none` no file changes it.
const OPTIONS: &[&str] = &[
    "StrictHostKeyChecking=yes",
    "UserKnownHostsFile=known_hosts",
    "GlobalKnownHostsFile=/dev/null",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "CanonicalizeHostname=no",
    "CheckHostIP=no",
    "IdentityFile=identity",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "PreferredAuthentications=publickey",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "NumberOfPasswordPrompts=1",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "ControlMaster=no",
    "ControlPath=none",
    "ProxyCommand=none",
    "EscapeChar=none",
    "ConnectTimeout=10",
    "ConnectionAttempts=1",
    "ServerAliveInterval=15",
    "LogLevel=ERROR",
];

/// A running ssh. It is killed when this goes, and its keys go with it.
pub(super) struct Program {
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    child: Child,
    said: JoinHandle<Vec<u8>>,
    _files: Files,
}

impl Program {
    /// Starts it, towards one address of the host: whatever else the host's name means, nothing is asked again.
    pub fn start(session: &Session, at: IpAddr, address: &SshAddress, keys: &SshKeys) -> Result<Self, Error> {
        let _runtime = session.runtime.enter();
        let files = Files::write(&session.private, keys)
            .map_err(|source| Error::storage("write the ssh key below", &session.private, source))?;
        let mut command = Command::new("ssh");
        command.args(arguments(at, address, keys)).current_dir(&files.0).kill_on_drop(true);
        command.env_clear().env("LC_ALL", "C").env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if keys.passphrase.is_some() {
            command.env("SSH_ASKPASS", format!("./{ASKPASS}")).env("SSH_ASKPASS_REQUIRE", "force");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::SshMissing { url: session.url() },
            _ => Error::SshFailed { url: session.url(), what: printable(&error.to_string()) },
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::SshFailed { url: session.url(), what: "it has no pipes".to_owned() });
        };
        let said = session.runtime.spawn(listen(stderr));
        Ok(Self { stdin, stdout, child, said, _files: files })
    }

    /// Why it ended, if it did not end well.
    pub async fn ended(&mut self, session: &Session) -> Option<Error> {
        let status = tokio::time::timeout(END, self.child.wait()).await;
        if status.is_ok_and(|status| status.is_ok_and(|status| status.success())) {
            return None;
        }
        let said = tokio::time::timeout(END, &mut self.said).await;
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        Some(meaning(&String::from_utf8_lossy(&said), &session.url(), &session.secret()))
    }
}

fn arguments(at: IpAddr, address: &SshAddress, keys: &SshKeys) -> Vec<String> {
    let mut arguments: Vec<String> = ["-F", "none", "-T", "-a", "-x"].map(str::to_owned).into();
    // In batch mode nobody is asked for anything, not even our own program for the passphrase.
    let batch = if keys.passphrase.is_some() { "BatchMode=no" } else { "BatchMode=yes" };
    for option in OPTIONS.iter().chain(&[batch]) {
        arguments.extend(["-o".to_owned(), (*option).to_owned()]);
    }
    // The key must be the one of the name, wherever that leads.
    arguments.extend(["-o".to_owned(), format!("HostKeyAlias={}", address.known_as())]);
    arguments.extend(["-p".to_owned(), address.port().to_string()]);
    arguments.extend(["-l".to_owned(), address.user.clone(), "--".to_owned(), at.to_string()]);
    // The remote's shell reads this. An address holds nothing that could end the quotes.
    arguments.push(format!("git-upload-pack '{}'", address.path));
    arguments
}

async fn listen(mut stderr: ChildStderr) -> Vec<u8> {
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let room = SAID.saturating_sub(said.len());
        said.extend(&buffer[..read.min(room)]);
    }
    said
}

/// What its words mean. They are a stranger's in part: the remote's programs write there too.
fn meaning(said: &str, url: &str, secret: &str) -> Error {
    let (url, secret) = (url.to_owned(), secret.to_owned());
    let has = |words: &[&str]| words.iter().any(|words| said.contains(words));
    if has(&["REMOTE HOST IDENTIFICATION HAS CHANGED"]) {
        let why = "it is another one than stands";
        return Error::HostKeyRefused { url, secret, why };
    }
    if has(&["host key is known for", "Host key verification failed", "REVOKED HOST KEY"]) {
        return Error::HostKeyRefused { url, secret, why: "it does not stand" };
    }
    if has(&["Load key", "error in libcrypto", "invalid format"]) {
        let why = "identity is no private key that ssh can read".to_owned();
        return Error::InvalidCredentials { url, secret, why };
    }
    let what = if has(&["ssh_askpass: exec"]) {
        "it cannot run the program that hands over the passphrase: the cache directory must not be mounted noexec"
            .to_owned()
    } else if has(&["No user exists for uid"]) {
        "it needs an entry in /etc/passwd for the user that the operator runs as".to_owned()
    } else if has(&["Permission denied"]) {
        // A wrong passphrase looks the same to ssh.
        let answer = "permission denied: identity is not let in there, or password is not its passphrase";
        return Error::CredentialsRefused { url, secret, answer: answer.to_owned() };
    } else if has(&["does not appear to be a git repository", "epository not found"]) {
        return Error::RepositoryNotFound { url };
    } else {
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        last.map_or("it ended without a word".to_owned(), |line| printable_bytes(line.trim().as_bytes()))
    };
    Error::SshFailed { url, what }
}

/// The keys, readable by this user alone.
struct Files(PathBuf);

impl Files {
    fn write(private: &Path, keys: &SshKeys) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let files = Self(private.join(name));
        DirBuilder::new().recursive(true).mode(0o700).create(private)?;
        DirBuilder::new().mode(0o700).create(&files.0)?;
        files.put(IDENTITY, 0o600, &as_ssh_reads_it(keys.identity.expose_secret()))?;
        files.put(KNOWN_HOSTS, 0o600, &as_ssh_reads_it(&keys.known_hosts))?;
        if let Some(passphrase) = &keys.passphrase {
            files.put(PASSPHRASE, 0o600, passphrase.expose_secret())?;
            files.put(ASKPASS, 0o700, &format!("#!/bin/sh\nexec cat {PASSPHRASE}\n"))?;
        }
        Ok(files)
    }

    fn put(&self, name: &str, mode: u32, content: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(self.0.join(name))?;
        file.write_all(content.as_bytes())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "an ssh key cannot be removed");
        }
    }
}

/// Secrets are often made on other systems, or without the last line's end, without which ssh refuses a key.
fn as_ssh_reads_it(text: &str) -> String {
    format!("{}\n", text.replace('\r', "").trim_end_matches('\n'))
}

/// Removes what a killed process left.
pub(super) fn sweep(private: &Path) {
    match fs::remove_dir_all(private) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(directory = %private.display(), %error, "ssh keys of an earlier run cannot be removed");
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::git::location::Location;

    fn keys(passphrase: Option<&str>) -> SshKeys {
        SshKeys {
            identity: "KEY\r\nEND".into(),
            passphrase: passphrase.map(Into::into),
            known_hosts: "host ssh-ed25519 AAAA".to_owned(),
        }
    }

    fn address(url: &str) -> SshAddress {
        let Location::Ssh(address) = Location::parse(url).unwrap() else { panic!("{url}") };
        address
    }

    /// Nothing of the address may come where ssh looks for options.
    #[test]
    fn the_address_stands_behind_all_options() {
        let address = address("ssh://git@git.example:2222/shop/a.git");
        let arguments = arguments("10.1.2.3".parse().unwrap(), &address, &keys(None));
        let end = arguments.iter().position(|argument| argument == "--").unwrap();
        assert_eq!(&arguments[end..], ["--", "10.1.2.3", "git-upload-pack '/shop/a.git'"]);
        assert_eq!(&arguments[end - 4..end], ["-p", "2222", "-l", "git"]);
        assert!(arguments.contains(&"HostKeyAlias=[git.example]:2222".to_owned()));
        assert!(arguments.starts_with(&["-F".to_owned(), "none".to_owned()]));
        assert!(arguments.contains(&"BatchMode=yes".to_owned()));
        for option in
            ["StrictHostKeyChecking=yes", "IdentityAgent=none", "ForwardAgent=no", "ProxyCommand=none"]
        {
            assert!(arguments.contains(&option.to_owned()), "{option}");
        }
    }

    #[test]
    fn keys_are_readable_by_this_user_alone_and_go_with_the_program() {
        use std::os::unix::fs::PermissionsExt as _;
        let cache = tempfile::tempdir().unwrap();
        let private = cache.path().join("ssh");
        let files = Files::write(&private, &keys(Some("hunter2"))).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&private), mode(&files.0)), (0o700, 0o700));
        assert_eq!(mode(&files.0.join(IDENTITY)), 0o600);
        assert_eq!(mode(&files.0.join(PASSPHRASE)), 0o600);
        assert_eq!(fs::read_to_string(files.0.join(IDENTITY)).unwrap(), "KEY\nEND\n");
        let directory = files.0.clone();
        drop(files);
        assert!(!directory.exists());
        std::mem::forget(Files::write(&private, &keys(None)).unwrap());
        sweep(&private);
        assert!(!private.exists());
    }

    /// Each calls for something else, by somebody else.
    #[test]
    fn the_words_of_ssh_are_understood() {
        for (said, reason, told) in [
            (
                "@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\n",
                "HostKeyRefused",
                "another one",
            ),
            (
                "No ED25519 host key is known for [::1]:1 and you have requested strict checking.\nHost key verification failed.\n",
                "HostKeyRefused",
                "does not stand",
            ),
            ("git@host: Permission denied (publickey).\n", "AccessDenied", "Secret apps/git"),
            (
                "Load key \"identity\": error in libcrypto\ngit@host: Permission denied (publickey).\n",
                "InvalidCredentials",
                "identity is no",
            ),
            (
                "fatal: '/a' does not appear to be a git repository\n",
                "RepositoryNotFound",
                "no git repository",
            ),
            (
                "ssh: connect to host localhost port 1: Connection refused\n",
                "FetchFailed",
                "Connection refused",
            ),
            ("odd\x1b[2J\n\n", "FetchFailed", "odd\\u{1b}[2J"),
            ("", "FetchFailed", "without a word"),
        ] {
            let error = meaning(said, "ssh://git@host/a", "apps/git");
            assert_eq!(error.reason(), reason, "{said}");
            assert!(error.to_string().contains(told), "{said}: {error}");
        }
    }
}
