//! What refusals and headers of the [distribution API] mean.
//!
//! [distribution API]: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md

use core::time::Duration;

use jiff::{SignedDuration, Timestamp, fmt::rfc2822};

use super::json;

/// How registries say that something is not there: the specification's words, and Harbor's.
const ABSENT: [&str; 4] = ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND"];
/// No registry is left alone for longer because it said so.
const LONGEST_REST: Duration = Duration::from_hours(24);
const HEADER_BYTES: usize = 8 << 10;

/// The codes of a registry's errors; none where the body is not what registries answer with.
pub fn error_codes(body: &[u8]) -> Vec<String> {
    let Ok(value) = json::read(body) else { return Vec::new() };
    let errors = value.get("errors").and_then(serde_json::Value::as_array);
    let codes = errors.into_iter().flatten().filter_map(|error| error.get("code")?.as_str());
    let plain = |code: &&str| {
        code.len() <= 64 && code.bytes().all(|b| b.is_ascii_uppercase() || matches!(b, b'_' | b'0'..=b'9'))
    };
    codes.filter(plain).take(8).map(str::to_owned).collect()
}

/// Whether a registry says with these codes that what was asked for is not there. A bare 404 says nothing of the kind: everything on
/// the way answers so.
pub fn says_absent(codes: &[String]) -> bool {
    !codes.is_empty() && codes.iter().all(|code| ABSENT.contains(&code.as_str()))
}

/// How long to stay away, by `Retry-After`: seconds, or a date.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        // More digits than a number holds are a long time.
        return Some(value.parse().map_or(LONGEST_REST, Duration::from_secs).min(LONGEST_REST));
    }
    let at = rfc2822::DateTimeParser::new().parse_timestamp(value.get(..value.len().min(64))?).ok()?;
    let rest = at.duration_since(now).max(SignedDuration::ZERO);
    Some(rest.unsigned_abs().min(LONGEST_REST))
}

/// Where the next page is, by a `Link` header: a URL, perhaps without its beginning.
pub fn next_page(link: &str) -> Option<&str> {
    let mut rest = link.get(..HEADER_BYTES.min(link.len()))?;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let end = end_of_parameters(after);
        let is_next =
            after[..end].split(';').filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value
                        .trim()
                        .trim_matches('"')
                        .split_ascii_whitespace()
                        .any(|rel| rel.eq_ignore_ascii_case("next"))
            });
        if is_next {
            return Some(target);
        }
        rest = &after[end..];
    }
}

/// Up to the comma before the next link.
fn end_of_parameters(text: &str) -> usize {
    let mut quoted = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// If this fails, an outage looks like an image without signatures.
    #[test]
    fn only_a_registry_says_that_something_is_not_there() {
        for (body, absent) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#,
                true,
            ),
            (r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, true),
            (r#"{"errors":[{"code":"NOT_FOUND","message":"artifact not found"}]}"#, true),
            (r#"{"errors":[{"code":"BLOB_UNKNOWN"},{"code":"DENIED"}]}"#, false),
            (r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#, false),
            (r#"{"errors":[{"code":"manifest_unknown"}]}"#, false),
            (r#"{"errors":[]}"#, false),
            (r#"{"errors":"MANIFEST_UNKNOWN"}"#, false),
            (r#"{"code":"MANIFEST_UNKNOWN"}"#, false),
            ("<html>MANIFEST_UNKNOWN</html>", false),
            ("404 page not found\n", false),
            ("default backend - 404", false),
            ("", false),
        ] {
            assert_eq!(says_absent(&error_codes(body.as_bytes())), absent, "{body}");
        }
        assert_eq!(error_codes(b"{\"errors\":[{\"code\":\"A\\u001b[2J\"}]}"), [""; 0]);
    }

    #[test]
    fn a_rest_is_a_number_or_a_date_and_ends() {
        let now: Timestamp = "2026-11-06T08:49:37Z".parse().unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Fri, 06 Nov 2026 08:50:07 GMT", Some(30)),
            ("Fri, 06 Nov 2026 08:00:00 GMT", Some(0)),
            ("Fri, 06 Nov 2099 08:00:00 GMT", Some(86_400)),
            ("99999999999999999999999999", Some(86_400)),
            ("999999", Some(86_400)),
            ("-5", None),
            ("soon", None),
            ("", None),
            ("1.5", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn the_next_page_is_found() {
        for (link, next) in [
            (r#"</v2/a/referrers/x?last=1>; rel="next""#, Some("/v2/a/referrers/x?last=1")),
            ("<https://r.example/x>;rel=next", Some("https://r.example/x")),
            (r#"<a>; rel="prev", <b>; title="x, <c>; y"; rel="last next""#, Some("b")),
            (r#"<a>; REL="NEXT""#, Some("a")),
            (r#"<a>; rel="previous""#, None),
            ("<a>", None),
            ("a; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_page(link), next, "{link}");
        }
    }

    proptest! {
        #[test]
        fn headers_never_panic(text in "\\PC{0,80}", shaped in "[<>;,=\" a-z]{0,40}") {
            for text in [&text, &shaped] {
                let _ = next_page(text);
                let _ = retry_after(text, Timestamp::UNIX_EPOCH);
            }
        }
    }
}
