//! What a registry answered, read up to a bound.

use jiff::Timestamp;
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, LINK, RETRY_AFTER},
};
use url::Url;

use super::{
    Error,
    reach::{explain, place},
};
use crate::{
    adapters::git::text::printable_up_to,
    domain::registry::{error_codes, retry_after, says_absent},
};

/// Of what is no answer to what was asked for.
const REFUSAL_BYTES: u64 = 64 << 10;

/// What a registry answered.
pub(super) struct Answer {
    pub status: StatusCode,
    pub body: Vec<u8>,
    /// As it was served.
    pub content_type: Option<String>,
    /// Where the next page is.
    pub link: Option<String>,
    /// Where the answer came from, after redirects.
    pub url: Url,
    retry_after: Option<String>,
}

impl Answer {
    /// Reads the whole body, or an error where it is longer than `most` bytes.
    pub async fn read(mut response: Response, most: u64, what: &str) -> Result<Self, Error> {
        let header = |name: HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let (content_type, link, retry_after) = (header(CONTENT_TYPE), header(LINK), header(RETRY_AFTER));
        let (status, url) = (response.status(), response.url().clone());
        let found = status == StatusCode::OK;
        let most = if found { most } else { REFUSAL_BYTES };
        let mut body = Vec::new();
        let mut too_long = response.content_length().is_some_and(|length| length > most);
        while !too_long && let Some(chunk) = response.chunk().await.map_err(|error| explain(what, error))? {
            too_long = (body.len() + chunk.len()) as u64 > most;
            if !too_long {
                body.extend_from_slice(&chunk);
            }
        }
        if too_long && found {
            return Err(Error::invalid(what, format!("{} serves more than {most} bytes", place(&url))));
        }
        if too_long {
            body.clear();
        }
        Ok(Self { status, body, content_type, link, url, retry_after })
    }

    /// The answer, if it is what was asked for; else what it means.
    pub fn found(self, what: &str) -> Result<Self, Error> {
        let from = place(&self.url);
        let codes = error_codes(&self.body);
        let said = match codes.as_slice() {
            [] => format!("HTTP {} from {from}", self.status.as_u16()),
            codes => format!("HTTP {} {} from {from}", self.status.as_u16(), codes.join(", ")),
        };
        let why = match self.status.as_u16() {
            200 if self.is_web_page() => format!("{from} answers with a web page, not as registries do"),
            200 => return Ok(self),
            404 if says_absent(&codes) => return Err(Error::Absent { what: what.to_owned(), why: said }),
            404 => format!(
                "{said}, which does not say what is missing, as registries do: something else answered"
            ),
            429 => return Err(self.rate_limited(what)),
            _ if codes.iter().any(|code| code == "TOOMANYREQUESTS") => return Err(self.rate_limited(what)),
            401 | 403 => return Err(Error::forbidden(what, said)),
            407 => format!("{said}: the proxy on the way refuses access; check HTTPS_PROXY and HTTP_PROXY"),
            _ => said,
        };
        Err(Error::unavailable(what, why))
    }

    /// Whether it is written for people: a login, a notice of a proxy.
    fn is_web_page(&self) -> bool {
        let kind = self.content_type.as_deref().unwrap_or_default().trim_start();
        kind.get(..9).is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
            || self.body.trim_ascii_start().first() == Some(&b'<')
    }

    fn rate_limited(&self, what: &str) -> Error {
        let host = printable_up_to(self.url.host_str().unwrap_or_default(), 100);
        let after = self.retry_after.as_deref().and_then(|after| retry_after(after, Timestamp::now()));
        Error::RateLimited { what: what.to_owned(), host, after }
    }
}
