//! One request of the smart protocol over HTTP, and its answer.

use std::{
    future::Future,
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION},
};
use secrecy::ExposeSecret as _;
use url::{Host, Origin, Url};

use super::{
    Error, credentials::Login, location::redacted, session::Session, text::printable_bytes,
    transport::give_up,
};

const REDIRECTS: usize = 3;
/// One line of the list of references is at most this long, and the first holds the capabilities.
const FIRST_LINE: usize = 64 << 10;
const ADVERTISEMENT: &str = "application/x-git-upload-pack-advertisement";
const RESULT: &str = "application/x-git-upload-pack-result";

/// One request and its answer.
pub(super) struct Exchange {
    session: Arc<Session>,
    client: Client,
    base: Arc<Mutex<Url>>,
    state: State,
    /// What was received and not read yet.
    rest: io::Cursor<Vec<u8>>,
}

enum State {
    /// The body so far: libgit2 writes all of it before it reads.
    Asking(Vec<u8>),
    /// The answer is the list of references.
    Listing(Response),
    Answering(Response),
    Over,
}

fn bytes_of(bytes: Vec<u8>) -> io::Cursor<Vec<u8>> {
    io::Cursor::new(bytes)
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.state {
            State::Asking(body) => {
                body.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            State::Listing(_) | State::Answering(_) | State::Over => {
                Err(io::Error::other("the request was sent already"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Exchange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let unread = usize::try_from(self.rest.position()).is_ok_and(|read| read < self.rest.get_ref().len());
        if !unread {
            // The text is ours on purpose: libgit2 is told only that it is over, and no text with a NUL may reach it.
            let received = self.receive();
            let received = received.map_err(|error| io::Error::other(give_up(&self.session, error)))?;
            self.rest = bytes_of(received);
        }
        self.rest.read(buffer)
    }
}

impl Exchange {
    pub fn new(session: Arc<Session>, client: Client, base: Arc<Mutex<Url>>) -> Self {
        let state = State::Asking(Vec::new());
        Self { session, client, base, state, rest: bytes_of(Vec::new()) }
    }

    /// Asks for the references.
    pub fn list(&mut self) -> Result<(), Error> {
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for _ in 0..=REDIRECTS {
            let url = below(&base, "info/refs", Some("service=git-upload-pack"));
            let request =
                self.client.get(url.clone()).header(ACCEPT, ADVERTISEMENT).header(CACHE_CONTROL, "no-cache");
            let response = self.send(&url, request)?;
            if response.status().is_redirection() {
                base = self.redirected(&url, response.headers())?;
                continue;
            }
            self.check(&response, ADVERTISEMENT)?;
            *self.base.lock().unwrap_or_else(PoisonError::into_inner) = base;
            self.state = State::Listing(response);
            return self.note_capabilities();
        }
        let to = redacted(&base);
        Err(Error::Redirected { url: self.session.url(), to })
    }

    /// Sends a request with the login, if it goes to where that belongs, and if it goes where it may.
    fn send(&self, url: &Url, request: RequestBuilder) -> Result<Response, Error> {
        // Addresses are not resolved; names are judged when they are.
        match url.host() {
            Some(Host::Ipv4(address)) => self.session.allow(address.into())?,
            Some(Host::Ipv6(address)) => self.session.allow(address.into())?,
            Some(Host::Domain(_)) | None => {}
        }
        wait(&self.session, self.authorized(url, request).send())
    }

    /// A request with the login, if it goes to where that belongs.
    fn authorized(&self, url: &Url, request: RequestBuilder) -> RequestBuilder {
        match self.session.login(url) {
            Some(Login::Basic { username, password }) => {
                request.basic_auth(username, Some(password.expose_secret()))
            }
            Some(Login::Bearer(token)) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    /// Where a redirect leads, if that is on the same host, port and scheme, and to a repository.
    fn redirected(&self, from: &Url, headers: &HeaderMap) -> Result<Url, Error> {
        let location =
            headers.get(LOCATION).map(|value| printable_bytes(value.as_bytes())).unwrap_or_default();
        let refused = |to| Error::Redirected { url: self.session.url(), to };
        let Ok(mut to) = from.join(&location) else {
            return Err(refused("an invalid URL".to_owned()));
        };
        let same: bool = matches!(to.origin(), Origin::Tuple(..)) && to.origin() == from.origin();
        let base = to.path().strip_suffix("/info/refs").map(str::to_owned);
        match base {
            Some(base) if same && to.username().is_empty() && to.password().is_none() => {
                to.set_path(&base);
                to.set_query(None);
                to.set_fragment(None);
                Ok(to)
            }
            _ => Err(refused(redacted(&to))),
        }
    }

    fn check(&self, response: &Response, wanted: &str) -> Result<(), Error> {
        let url = self.session.url();
        let status = response.status();
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let status = status.as_u16();
                let known = self
                    .session
                    .https_keys()
                    .filter(|keys| keys.login.is_some() || keys.certificate.is_some());
                return Err(match known {
                    Some(_) => Error::CredentialsRefused {
                        url,
                        secret: self.session.secret(),
                        answer: format!("HTTP {status}"),
                    },
                    None => Error::Forbidden { url, status },
                });
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => return Err(Error::ProxyRefused { url }),
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(Error::RepositoryNotFound { url }),
            StatusCode::TOO_MANY_REQUESTS => return Err(Error::RateLimited { url }),
            status if status.is_server_error() => {
                return Err(Error::ServerFailed { url, status: status.as_u16() });
            }
            status => return Err(Error::NotAGitServer { url, got: format!("HTTP {}", status.as_u16()) }),
        }
        let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        if kind != wanted.as_bytes() {
            let got = match printable_bytes(kind) {
                kind if kind.is_empty() => "an answer without a content type".to_owned(),
                kind => format!("content of type {kind}"),
            };
            return Err(Error::NotAGitServer { url, got });
        }
        Ok(())
    }

    /// Reads ahead to the end of the first reference's line, which says what the server can do.
    fn note_capabilities(&mut self) -> Result<(), Error> {
        let mut start = Vec::new();
        while !start.contains(&0) && start.len() < FIRST_LINE {
            let more = self.receive()?;
            if more.is_empty() {
                break;
            }
            start.extend(more);
        }
        self.session.note_capabilities(&start)?;
        self.rest = bytes_of(start);
        Ok(())
    }

    /// The next bytes of the answer; none at its end. Sends the request first if that was not done.
    fn receive(&mut self) -> Result<Vec<u8>, Error> {
        if let State::Asking(body) = &mut self.state {
            let body = std::mem::take(body);
            let base = self.base.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let url = below(&base, "git-upload-pack", None);
            let request = self.client.post(url.clone()).header(ACCEPT, RESULT);
            let request = request.header(CONTENT_TYPE, "application/x-git-upload-pack-request").body(body);
            let response = self.send(&url, request)?;
            if response.status().is_redirection() {
                let to = response.headers().get(LOCATION).map(|value| printable_bytes(value.as_bytes()));
                let to = to.and_then(|to| base.join(&to).ok()).map(|to| redacted(&to)).unwrap_or_default();
                return Err(Error::Redirected { url: self.session.url(), to });
            }
            self.check(&response, RESULT)?;
            self.state = State::Answering(response);
        }
        let (State::Listing(response) | State::Answering(response)) = &mut self.state else {
            return Ok(Vec::new());
        };
        let chunk = wait(&self.session, response.chunk())?;
        let Some(chunk) = chunk else {
            self.state = State::Over;
            return Ok(Vec::new());
        };
        self.session.count_wire(chunk.len())?;
        if matches!(self.state, State::Listing(_)) {
            self.session.note_list(&chunk);
        }
        Ok(chunk.to_vec())
    }
}

fn wait<T>(session: &Session, work: impl Future<Output = reqwest::Result<T>>) -> Result<T, Error> {
    session.wait(work)?.map_err(|error| {
        // The URL in reqwest's text has our query, and would stand there twice.
        let unreachable = || Error::Unreachable { url: session.url(), source: error.without_url() };
        session.take_failure().unwrap_or_else(unreachable)
    })
}

fn below(base: &Url, path: &str, query: Option<&str>) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url.set_query(query);
    url
}
