//! The list of references with which a server greets, as it stands on the wire.
//!
//! libgit2 reads it too, but its list is of no use: git2 panics if anybody pushed a name that is not UTF-8.

/// What the server can do: it stands behind the first reference.
pub(super) fn capabilities(list: &[u8]) -> String {
    let line = list.split(|byte| *byte == 0).nth(1).and_then(|rest| rest.split(|byte| *byte == b'\n').next());
    String::from_utf8_lossy(line.unwrap_or_default()).into_owned()
}

/// Whether the beginning of a list is enough to find what the server can do: its first line, or that there is none.
pub(super) fn begins(list: &[u8]) -> bool {
    match length(list) {
        Some(length) => list.len() >= length,
        None => list.len() >= 4,
    }
}

/// The names of all tags. Names that are not UTF-8 are no versions, and are passed over.
pub(super) fn tags(list: &[u8]) -> Vec<&str> {
    let mut tags = Vec::new();
    let mut rest = list;
    while let Some(length) = length(rest) {
        let Some((line, after)) = rest.split_at_checked(length.max(4)) else { break };
        rest = after;
        let name = line.get(4 + 40 + 1..).unwrap_or_default();
        let name = name.split(|byte| matches!(byte, 0 | b'\n')).next().unwrap_or_default();
        let name = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix("refs/tags/"));
        // What an annotated tag points at is listed behind it, as `name^{}`.
        tags.extend(name.filter(|name| !name.ends_with("^{}")));
    }
    tags
}

/// How long the next line is, with the four digits that say so. A separator has none: 0.
fn length(bytes: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(bytes.get(..4)?).ok()?;
    usize::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8]) -> Vec<u8> {
        let mut line = format!("{:04x}", text.len() + 4).into_bytes();
        line.extend(text);
        line
    }

    fn list(names: &[&[u8]]) -> Vec<u8> {
        let mut list = line(b"# service=git-upload-pack\n");
        list.extend(b"0000");
        for (n, name) in names.iter().enumerate() {
            let mut text = [b"1".repeat(40), b" ".to_vec(), name.to_vec()].concat();
            if n == 0 {
                text.extend(b"\0multi_ack shallow agent=git/2\n");
            }
            list.extend(line(&text));
        }
        list.extend(b"0000");
        list
    }

    #[test]
    fn tags_and_capabilities_are_found() {
        let list = list(&[
            b"HEAD",
            b"refs/heads/v9.0.0",
            b"refs/tags/v1.0.0\n",
            b"refs/tags/v1.0.0^{}\n",
            b"refs/tags/x/y",
        ]);
        assert_eq!(tags(&list), ["v1.0.0", "x/y"]);
        assert_eq!(capabilities(&list), "multi_ack shallow agent=git/2");
    }

    /// Anybody who may push anything chooses these bytes.
    #[test]
    fn odd_lists_do_no_harm() {
        let odd = list(&[b"refs/tags/\xff\xfe", b"refs/tags/v1.0.0", b""]);
        assert_eq!(tags(&odd), ["v1.0.0"]);
        for end in 0..odd.len() {
            assert!(tags(&odd[..end]).len() <= 1);
        }
        for garbage in [&b""[..], b"zzzz", b"0001", b"ffff", b"0005a", b"Welcome to this host!\n"] {
            assert_eq!(tags(garbage), Vec::<&str>::new());
            assert_eq!(capabilities(garbage), "");
        }
        assert!(!begins(b"") && !begins(b"00") && !begins(b"0009a"));
        assert!(begins(b"0000") && begins(b"0005a") && begins(b"Welcome"));
    }
}
