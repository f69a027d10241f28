//! Where requests may go, and one that goes there.

use std::{
    collections::BTreeSet,
    error::Error as StdError,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reqwest::{
    Certificate, Client, Response, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION},
    redirect,
};
use tokio::net::lookup_host;
use url::{Host, Url};

use super::{Bounds, Error, InvalidSettings, Settings};
use crate::{
    adapters::{chain, git::text::printable_up_to},
    domain::destination::{Denied, Destinations},
};

/// Long enough for a URL, short enough for a condition.
const TOLD: usize = 200;

/// Sends requests to where they may go.
pub(super) struct Reach {
    client: Client,
    /// For this machine: what is not encrypted stays on it, whatever proxies there are.
    direct: Client,
    destinations: Destinations,
    plain: BTreeSet<(String, u16)>,
    proxies: BTreeSet<String>,
    redirects: usize,
}

/// One request.
#[derive(Clone, Copy)]
pub(super) struct Get<'a> {
    pub url: &'a Url,
    pub accept: &'a str,
    /// What is said of who asks, to the origin of `url` only.
    pub authorization: Option<&'a HeaderValue>,
    /// What is asked for, for messages.
    pub what: &'a str,
}

impl Reach {
    pub fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        let Settings { ca, plain_http, private, bounds, .. } = settings;
        let mut authorities = Vec::new();
        for (number, pem) in (1..).zip(ca) {
            // Text without any certificate is no error to the parser, but would trust nobody.
            let found = Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
            if found.is_empty() {
                return Err(InvalidSettings::Ca { number });
            }
            authorities.extend(found);
        }
        let plain = plain_http.iter().map(|host| {
            let url = Url::parse(&format!("http://{host}")).ok();
            let plain = url.as_ref().filter(|url| url.path() == "/" && is_bare(url)).and_then(host_and_port);
            plain.ok_or_else(|| InvalidSettings::Host { host: host.clone() })
        });
        let plain = plain.collect::<Result<_, _>>()?;
        // Not the root's: whoever may write a workload says which registries are asked.
        let destinations = Destinations::new(false, Arc::new(private.clone()));
        let proxies = proxies();
        let resolver = |proxies| Arc::new(Resolver { destinations: destinations.clone(), proxies });
        let client = client(bounds, &authorities, &resolver(proxies.clone()), false)?;
        let direct = self::client(bounds, &authorities, &resolver(BTreeSet::new()), true)?;
        Ok(Self { client, direct, destinations, plain, proxies, redirects: bounds.redirects })
    }

    /// The URL of a registry, by its host in names of images.
    pub fn registry(&self, host: &str) -> Option<Url> {
        // Docker Hub is not where it says.
        let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
        let plain = Url::parse(&format!("http://{host}/")).ok()?;
        if host_and_port(&plain).is_some_and(|at| self.plain.contains(&at)) {
            return Some(plain);
        }
        Url::parse(&format!("https://{host}/")).ok()
    }

    /// Asks, and follows redirects.
    ///
    /// # Guarantees
    /// Nothing goes to an address that is not allowed, nor without encryption to a host that is not listed; what is said of who asks
    /// goes to the origin of the URL only.
    pub async fn get(&self, get: Get<'_>) -> Result<Response, Error> {
        let mut url = get.url.clone();
        for _ in 0..=self.redirects {
            self.judge(&url, get.what).await?;
            let client = if is_here(&url) { &self.direct } else { &self.client };
            let mut request = client.get(url.clone()).header(ACCEPT, get.accept);
            if let Some(authorization) = get.authorization
                && url.origin() == get.url.origin()
            {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = request.send().await.map_err(|error| explain(get.what, error))?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| url.join(to).ok()).filter(is_bare);
            url = to.ok_or_else(|| {
                Error::unavailable(get.what, format!("{} redirects to no URL", place(&url)))
            })?;
        }
        let why = format!("more than {} redirects, the last to {}", self.redirects, place(&url));
        Err(Error::unavailable(get.what, why))
    }

    /// Whether a request may go to this URL. Names are judged when they are resolved, but for proxies'.
    async fn judge(&self, url: &Url, what: &str) -> Result<(), Error> {
        let plain = host_and_port(url).is_some_and(|at| self.plain.contains(&at));
        if url.scheme() != "https" && !(url.scheme() == "http" && plain) {
            let why = format!(
                "{} is not encrypted: use HTTPS, or list the host among the registries for plain HTTP",
                place(url)
            );
            return Err(Error::forbidden(what, why));
        }
        let addresses: Vec<IpAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![address.into()],
            Some(Host::Ipv6(address)) => vec![address.into()],
            Some(Host::Domain(name)) if self.proxies.contains(name) => {
                let found = lookup_host((name, 0))
                    .await
                    .map_err(|error| Error::unavailable(what, error.to_string()))?;
                found.map(|address| address.ip()).collect()
            }
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        let host = url.host_str().unwrap_or_default();
        for address in addresses {
            let allowed = self.destinations.allow(host, address);
            allowed.map_err(|denied| {
                Error::forbidden(what, NotAllowed::new(host, address, denied).to_string())
            })?;
        }
        Ok(())
    }
}

fn client(
    bounds: &Bounds,
    ca: &[Certificate],
    resolver: &Arc<Resolver>,
    direct: bool,
) -> Result<Client, InvalidSettings> {
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::clone(resolver))
            .connect_timeout(bounds.connect)
            .read_timeout(bounds.read)
            .pool_max_idle_per_host(4);
        if direct { builder.no_proxy() } else { builder }
    };
    let made = builder().tls_certs_merge(ca.to_vec()).build();
    // A machine without any certificates of its own has those that it was given.
    let only =
        |source| if ca.is_empty() { Err(source) } else { builder().tls_certs_only(ca.to_vec()).build() };
    made.or_else(only).map_err(|source| InvalidSettings::Client { source })
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether a URL leads to this machine: nobody stands on the way.
pub(super) fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Without anything that says who asks.
fn is_bare(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none()
}

fn host_and_port(url: &Url) -> Option<(String, u16)> {
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

/// A URL for messages: the query may hold what opens something.
pub(super) fn place(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    printable_up_to(url.as_str(), TOLD)
}

/// What the network said, or what we said to it.
pub(super) fn explain(what: &str, error: reqwest::Error) -> Error {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(inner) = cause {
        if let Some(denied) = inner.downcast_ref::<NotAllowed>() {
            return Error::forbidden(what, denied.to_string());
        }
        cause = inner.source();
    }
    let host = error.url().and_then(Url::host_str).unwrap_or("the registry").to_owned();
    // The URL in reqwest's text has the query.
    Error::unavailable(what, printable_up_to(&format!("{host}: {}", chain(&error.without_url())), 2 * TOLD))
}

/// An address that is not connected to.
#[derive(Debug)]
struct NotAllowed(String);

impl NotAllowed {
    fn new(host: &str, address: IpAddr, denied: Denied) -> Self {
        let why = match denied {
            Denied::Private => {
                "which is not public: list the host or the address among the private registries, if it is meant"
            }
            Denied::Link => {
                "which is link-local, for metadata of a cloud, or no host's: only that very address, listed among the private registries, \
                 opens it"
            }
        };
        Self(format!("{host} is at {address}, {why}"))
    }
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for NotAllowed {}

/// Resolves names to what may be connected to. Addresses in URLs never come here: they are judged before.
struct Resolver {
    destinations: Destinations,
    proxies: BTreeSet<String>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (destinations, proxy) = (self.destinations.clone(), self.proxies.contains(name.as_str()));
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = lookup_host((host, 0)).await?.collect();
            // A request to a proxy's name as a registry was judged before; the proxy resolves the others by itself.
            if proxy {
                return Ok(Box::new(found.into_iter()) as Addrs);
            }
            let mut denied = None;
            let mut allowed = Vec::new();
            for address in found {
                match destinations.allow(host, address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(why) => denied = denied.or(Some(NotAllowed::new(host, address.ip(), why))),
                }
            }
            match denied {
                _ if !allowed.is_empty() => Ok(Box::new(allowed.into_iter()) as Addrs),
                Some(denied) => Err(denied.into()),
                None => Err(io::Error::other("no address").into()),
            }
        })
    }
}

/// The hosts of the proxies that the client finds in the environment.
fn proxies() -> BTreeSet<String> {
    let names = ["https_proxy", "http_proxy", "all_proxy"];
    let values = names
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_uppercase()])
        .filter_map(|name| std::env::var(name).ok());
    let url = |value: String| {
        let value = if value.contains("://") { value } else { format!("http://{value}") };
        Url::parse(&value).ok()
    };
    values.filter_map(url).filter_map(|url| url.host_str().map(str::to_owned)).collect()
}
