//! What may stand between two scalars. A scalar's own text is compared by the resolver; the punctuation around it is
//! where scanners of YAML 1.1 and 1.2 differ, so only the plain forms pass: no tabs, no `? ` keys, no tags but
//! `!!str`, no anchors with odd names.

/// The text between the end of one scalar and the start of the next.
pub(super) struct Gap<'a> {
    pub(super) text: &'a str,
    /// The byte before `text`, a line break at the start of the document.
    pub(super) before: u8,
    /// Inside brackets at the end of `text`.
    pub(super) flow: bool,
    /// The scalar before is a key, whose `:` must stand on the same line.
    pub(super) after_key: bool,
    /// The document's one node has ended.
    pub(super) ended: bool,
}

impl Gap<'_> {
    /// The error is an offset in the text and what stands there.
    pub(super) fn check(&self) -> Result<(), (usize, String)> {
        let gap = self.text;
        let bytes = gap.as_bytes();
        let at = |index: usize| bytes.get(index).copied().unwrap_or(b'\n');
        let ends = |index: usize| matches!(at(index), b' ' | b'\n');
        let (mut i, mut after_end) = (0, false);
        if self.after_key
            && gap.split(':').next().is_some_and(|before| before.len() < gap.len() && before.contains('\n'))
        {
            return Err((0, "a key and its `:` on different lines".to_owned()));
        }
        while i < bytes.len() {
            let before = if i == 0 { self.before } else { at(i - 1) };
            let column_0 = before == b'\n';
            i += match at(i) {
                b' ' | b'\n' => 1,
                b'#' if column_0 || before == b' ' => line_length(&bytes[i..]),
                b'.' if self.ended && column_0 && gap[i..].starts_with("...") && ends(i + 3) => {
                    after_end = true;
                    3
                }
                // Go stops reading there.
                _ if after_end => return Err((i, "text after `...`".to_owned())),
                b',' | b'[' | b']' | b'{' | b'}' => 1,
                b'-' if column_0 && gap[i..].starts_with("---") && ends(i + 3) => 3,
                b'-' | b':' if ends(i + 1) => 1,
                // JSON's notation: `{"a":1}`.
                b':' if self.flow && matches!(before, b'"' | b'\'') => 1,
                b'&' => anchor(&gap[i..]).ok_or((i, "an anchor with an odd name".to_owned()))?,
                b'!' if gap[i..].starts_with("!!str") && ends(i + 5) => 5,
                b'!' => return Err((i, "a tag".to_owned())),
                b'|' | b'>' => header(&bytes[i..]).ok_or((i, "an odd block scalar".to_owned()))?,
                b'?' => return Err((i, "a `?` key".to_owned())),
                b'\t' => return Err((i, "a tab".to_owned())),
                _ => return Err((i, format!("`{}`", gap[i..].chars().take(10).collect::<String>()))),
            };
        }
        Ok(())
    }
}

fn line_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len())
}

/// Length of `&name`, with the names that go-yaml knows.
fn anchor(text: &str) -> Option<usize> {
    let name =
        text[1..].bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)).count();
    let after = text.as_bytes().get(1 + name).copied().unwrap_or(b'\n');
    (name > 0 && matches!(after, b' ' | b'\n')).then_some(1 + name)
}

/// Length of `|-2 # comment`.
fn header(bytes: &[u8]) -> Option<usize> {
    let indicators =
        bytes[1..].iter().take_while(|byte| byte.is_ascii_digit() || b"+-".contains(byte)).count();
    let end = line_length(bytes);
    let rest = &bytes[1 + indicators..end];
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    (spaces == rest.len() || (spaces > 0 && rest[spaces] == b'#')).then_some(end)
}
