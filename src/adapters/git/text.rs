//! Text of strangers, made fit for logs, conditions and terminals.

/// Long enough for a path or a message, short enough for a condition.
const MAX_CHARS: usize = 200;

/// `text` with everything that could steer a terminal or mislead a reader escaped, and cut if it is long.
pub(super) fn printable(text: &str) -> String {
    printable_up_to(text, MAX_CHARS)
}

/// The same with another length.
pub(in crate::adapters) fn printable_up_to(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (count, char) in text.chars().enumerate() {
        if count == most {
            out.push('…');
            break;
        }
        if misleading(char) { out.extend(char.escape_unicode()) } else { out.push(char) }
    }
    out
}

/// The same for bytes that should be UTF-8.
pub(super) fn printable_bytes(bytes: &[u8]) -> String {
    // Enough bytes for the characters that are kept: a message may be of any length.
    printable(&String::from_utf8_lossy(&bytes[..bytes.len().min(4 * (MAX_CHARS + 1))]))
}

/// Control characters, and those that are invisible or change the direction of what follows.
pub(super) fn misleading(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A commit message must not be able to redraw the terminal of who reads the log.
    #[test]
    fn controls_and_direction_marks_are_escaped_and_long_text_is_cut() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\0"), "a\\u{1b}[2Jb\\u{202e}c\\u{0}");
        assert_eq!(printable(&"x".repeat(1000)).chars().count(), MAX_CHARS + 1);
        assert_eq!(printable_bytes(b"\xff ok"), "\u{fffd} ok");
    }
}
