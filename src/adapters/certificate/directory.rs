//! Certificates that somebody else makes and mounts, such as cert-manager.

use std::{io, path::PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::{fs::File, io::AsyncReadExt as _};

use super::{CURRENT, Certificate, Error, read_all};

/// More than any chain of certificates.
const MAX: u64 = 256 * 1024;

/// A directory with `tls.crt`, `tls.key` and perhaps `ca.crt`, as a Secret of the type `kubernetes.io/tls` is mounted.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    seen: Option<Content>,
}

/// What is in the files.
#[derive(Debug)]
struct Content {
    chain: String,
    key: SecretString,
    authority: Option<String>,
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        let Self { chain, key, authority } = self;
        *chain == other.chain
            && key.expose_secret() == other.key.expose_secret()
            && *authority == other.authority
    }
}

/// What a look at the directory found to be new.
#[derive(Debug)]
pub struct Mounted {
    /// What is served.
    pub certificate: Certificate,
    /// What clients must trust, as PEM, if the directory says so.
    pub authority: Option<String>,
}

/// Why a directory is of no use.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Unusable {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is larger than {MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("in {}: {why}", path.display())]
    Invalid { path: PathBuf, why: Error },
}

impl Directory {
    /// A directory that is not looked at yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// Looks at it; none if it is as it was at the last look that succeeded.
    ///
    /// The files are replaced one after the other or all at once: what does not fit together is an error now, and fits at the next
    /// look.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub async fn look(&mut self) -> Result<Option<Mounted>, Unusable> {
        let content = Content {
            chain: self.read(CURRENT.certificate).await?,
            key: self.read(CURRENT.key).await?.into(),
            authority: match self.read(CURRENT.authority).await {
                Err(Unusable::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
                read => Some(read?),
            },
        };
        if self.seen.as_ref() == Some(&content) {
            return Ok(None);
        }
        let invalid = |why| Unusable::Invalid { path: self.path.clone(), why };
        let certificate =
            Certificate::read(content.chain.as_bytes(), &content.key, CURRENT).map_err(invalid)?;
        let authority = content.authority.clone().filter(|authority| !authority.trim().is_empty());
        if let Some(authority) = &authority {
            read_all(authority.as_bytes(), CURRENT.authority).map_err(invalid)?;
        }
        self.seen = Some(content);
        Ok(Some(Mounted { certificate, authority }))
    }

    async fn read(&self, name: &str) -> Result<String, Unusable> {
        let path = self.path.join(name);
        let read = async {
            let mut content = String::new();
            File::open(&path).await?.take(MAX + 1).read_to_string(&mut content).await?;
            io::Result::Ok(content)
        };
        match read.await {
            Ok(content) if content.len() as u64 > MAX => Err(Unusable::TooLarge { path }),
            Ok(content) => Ok(content),
            Err(source) => Err(Unusable::Unreadable { path, source }),
        }
    }
}
