//! Bytes to documents, as kubectl cuts them: at lines that start with `---`, whatever YAML thinks of them.

use super::{Limits, Problem};

/// kubectl asks only the first bytes of a file whether it is JSON (4096; other clients 2048). Blank text before the
/// first `{` that is longer than this is refused, so that all of them agree.
const JSON_PEEK: usize = 1024;

/// The text between two separators.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Number of the document, from 1.
    pub(super) index: usize,
    /// Line of the file on which `text` starts, from 1.
    pub(super) line: usize,
    /// The text, lines ended by `\n`.
    pub(super) text: String,
    /// kubectl tries JSON before YAML.
    pub(super) may_be_json: bool,
}

impl Chunk {
    /// First line that isn't blank.
    pub(super) fn first_content_line(&self) -> usize {
        self.line + self.text.lines().take_while(|line| line.trim().is_empty()).count()
    }
}

/// Checks size and characters, then cuts.
pub(super) fn split(bytes: &[u8], limits: &Limits) -> Result<Vec<Chunk>, Problem> {
    if bytes.len() > limits.file_bytes {
        let (is, limit) = (bytes.len(), limits.file_bytes);
        return Err(Problem::new(1, format!("the file has {is} bytes; expected at most {limit}; split it")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = line_at(&bytes[..error.valid_up_to()]);
        Problem::new(line, "invalid UTF-8; expected text in UTF-8; convert the file")
    })?;
    let (text, bom) = text.strip_prefix('\u{feff}').map_or((text, false), |rest| (rest, true));
    check_characters(text)?;
    cut(text, bom, limits)
}

fn line_at(before: &[u8]) -> usize {
    before.split(|byte| *byte == b'\n').count()
}

/// Go refuses control characters. It takes NEL, LS, PS and a lone CR for line breaks, which YAML 1.2 doesn't, and a
/// byte order mark inside the text for nothing or for a letter, depending on its buffers.
fn check_characters(text: &str) -> Result<(), Problem> {
    let lone_cr = |at: usize| !text[at + 1..].starts_with('\n');
    let bad = text.char_indices().find(|(at, c)| match c {
        '\t' | '\n' => false,
        '\r' => lone_cr(*at),
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => true,
        c => c.is_control(),
    });
    let Some((at, c)) = bad else { return Ok(()) };
    let code = u32::from(c);
    Err(Problem::new(
        line_at(&text.as_bytes()[..at]),
        format!("character U+{code:04X}; expected printable text; write it as an escape in double quotes"),
    ))
}

fn cut(text: &str, bom: bool, limits: &Limits) -> Result<Vec<Chunk>, Problem> {
    let blank = text.len() - text.trim_start().len();
    let json = !bom && text[blank..].starts_with('{');
    // kubectl skips every blank of Unicode there, and YAML reads most of them as text.
    if json && (blank > JSON_PEEK || !text[..blank].is_ascii()) {
        let message = format!("odd blanks before `{{`; expected at most {JSON_PEEK} spaces and line breaks");
        return Err(Problem::new(1, message));
    }
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut next = Chunk { index: 1, line: 1, text: String::new(), may_be_json: json };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let line = line.trim_end_matches(['\n', '\r']);
        if let Some(rest) = line.strip_prefix("---") {
            check_separator(rest, number + 1)?;
            if !next.text.is_empty() {
                let empty = Chunk {
                    index: next.index + 1,
                    line: number + 2,
                    text: String::new(),
                    may_be_json: false,
                };
                chunks.push(std::mem::replace(&mut next, empty));
                check_documents(chunks.len(), number + 1, limits)?;
                continue;
            }
        }
        next.text.push_str(line);
        next.text.push('\n');
    }
    if !next.text.is_empty() {
        chunks.push(next);
    }
    check_documents(chunks.len(), 1, limits)?;
    Ok(chunks)
}

fn check_documents(count: usize, line: usize, limits: &Limits) -> Result<(), Problem> {
    let limit = limits.documents;
    if count <= limit {
        return Ok(());
    }
    Err(Problem::new(
        line,
        format!("more than {limit} documents in one file; expected fewer; split the file"),
    ))
}

/// kubectl refuses a file with anything but a comment after `---`, and reads `---#` as text where it stands first.
/// The bounds of the documents would be in doubt, so the whole file is refused.
fn check_separator(rest: &str, line: usize) -> Result<(), Problem> {
    let trimmed = rest.trim_start_matches(' ');
    if trimmed.is_empty() || (trimmed.starts_with('#') && trimmed.len() < rest.len()) {
        return Ok(());
    }
    Err(Problem::new(
        line,
        "text after `---`; expected the end of the line or a comment; move it to the next line",
    ))
}
