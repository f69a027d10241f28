//! From a host to the addresses that a source may have this program connect to.

use std::{io, net::SocketAddr, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;

use super::{Error, session::Session};

/// The addresses of a host, without those that are not allowed; an error if there is no other.
async fn addresses(session: &Session, host: &str, port: u16) -> io::Result<Result<Vec<SocketAddr>, Error>> {
    let mut denied = None;
    let mut allowed = Vec::new();
    for address in lookup_host((host, port)).await? {
        match session.allow(address.ip()) {
            Ok(()) => allowed.push(address),
            Err(error) => denied = denied.or(Some(error)),
        }
    }
    Ok(match denied {
        Some(error) if allowed.is_empty() => Err(error),
        Some(_) | None => Ok(allowed),
    })
}

/// The addresses of the ssh server.
pub(super) fn of_ssh(session: &Session, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    let found = session.wait(addresses(session, host, port))?;
    found.map_err(|error| Error::SshFailed { url: session.url(), what: error.to_string() })?
}

/// Resolves for HTTP. Addresses in URLs never come here: whoever sends a request looks at its host first.
pub(super) struct Resolver(pub Arc<Session>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let session = Arc::clone(&self.0);
        Box::pin(async move {
            // Requests go to the host of the source and to no other: any other name is the proxy's, which resolves by itself.
            if session.host() != Some(name.as_str()) {
                let proxy: Vec<_> = lookup_host((name.as_str(), 0)).await?.collect();
                return Ok(Box::new(proxy.into_iter()) as Addrs);
            }
            match addresses(&session, name.as_str(), 0).await? {
                Ok(allowed) => Ok(Box::new(allowed.into_iter()) as Addrs),
                Err(error) => {
                    let told = error.to_string();
                    session.fail(error);
                    Err(told.into())
                }
            }
        })
    }
}
