//! A Rust file as text, read just well enough for the rules: comments and the contents of strings are taken out.

use std::{fs, ops::Range, path::Path};

/// One file of Rust.
pub struct Source {
    /// From the root of the repository, with `/`.
    pub path: String,
    /// The text with comments and the contents of literals blanked; lines are where they were.
    code: String,
    /// The contents of string literals, with their lines.
    pub strings: Vec<(usize, String)>,
    /// The bytes of `code` that are compiled for tests only.
    tests: Vec<Range<usize>>,
}

/// A path as it stands in code (`crate::domain::image`), with its line. Groups are spread out.
#[derive(Debug, PartialEq, Eq)]
pub struct CodePath {
    pub line: usize,
    pub segments: Vec<String>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let (code, strings) = strip(text);
        let tests = test_items(&code);
        Self { path: path.to_owned(), code, strings, tests }
    }

    /// Whether the whole file is compiled for tests only.
    pub fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// How many lines are not for tests.
    pub fn shipped_lines(&self) -> usize {
        let in_tests: usize = self.tests.iter().map(|range| self.code[range.clone()].lines().count()).sum();
        self.code.lines().count() - in_tests
    }

    /// The lines that use this name, in the tests or outside of them.
    pub fn uses(&self, name: &str) -> Vec<Use> {
        tokens(&self.code)
            .into_iter()
            .filter(|token| token.text == name)
            .map(|token| Use {
                line: token.line,
                in_test: self.is_test() || self.tests.iter().any(|range| range.contains(&token.at)),
            })
            .collect()
    }

    /// The modules that this file declares.
    pub fn declared_modules(&self) -> Vec<String> {
        let tokens = tokens(&self.code);
        let declared = tokens.windows(2).filter(|pair| pair[0].text == "mod" && is_name(pair[1].text));
        declared.map(|pair| pair[1].text.to_owned()).collect()
    }

    /// All paths, from their first segment.
    pub fn paths(&self) -> Vec<CodePath> {
        let tokens = tokens(&self.code);
        let text = |i: Option<usize>| i.and_then(|i| tokens.get(i)).map_or("", |token| token.text);
        let (mut paths, mut i) = (Vec::new(), 0);
        while i < tokens.len() {
            let back = |n: usize| text(i.checked_sub(n));
            let arrow = matches!(back(3), "-" | "=");
            let after_type = is_name(back(2)) || back(2) == ">" && !arrow;
            let goes_on = back(1) == "." || back(1) == "::" && after_type;
            let starts = text(Some(i + 1)) == "::" || back(1) == "use";
            if is_name(tokens[i].text) && !goes_on && starts {
                let line = tokens[i].line;
                let mut found = Vec::new();
                i = spread(&tokens, i, &mut Vec::new(), &mut found);
                paths.extend(found.into_iter().map(|segments| CodePath { line, segments }));
            } else {
                i += 1;
            }
        }
        paths
    }
}

/// One place where a name is used.
#[derive(Debug, PartialEq, Eq)]
pub struct Use {
    pub line: usize,
    pub in_test: bool,
}

/// All Rust files under `dir`, by path.
pub fn sources(root: &Path, dir: &str) -> Vec<Source> {
    files(root, dir, "rs").into_iter().map(|(path, text)| Source::new(&path, &text)).collect()
}

/// All files under `dir` whose names end so, with their text, by path.
pub fn files(root: &Path, dir: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(root.join(dir)) else { return found };
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{dir}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(root, &path, extension));
        } else if Path::new(&path).extension().is_some_and(|e| e == extension) {
            let text = fs::read_to_string(entry.path()).unwrap();
            found.push((path, text));
        }
    }
    found.sort();
    found
}

struct Token<'a> {
    at: usize,
    line: usize,
    text: &'a str,
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::`, and every other character by itself.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(c) = code[at..].chars().next() {
        let length = if c.is_alphanumeric() || c == '_' {
            code[at..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len() - at)
        } else if code[at..].starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        if !c.is_whitespace() {
            tokens.push(Token { at, line, text: &code[at..at + length] });
        }
        line += usize::from(c == '\n');
        at += length;
    }
    tokens
}

/// Reads the path that starts at token `i`; returns the token after it.
fn spread(
    tokens: &[Token<'_>],
    mut i: usize,
    prefix: &mut Vec<String>,
    found: &mut Vec<Vec<String>>,
) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text);
    let depth = prefix.len();
    while is_name(text(i)) {
        prefix.push(text(i).to_owned());
        i += 1;
        if text(i) != "::" {
            break;
        }
        i += 1;
    }
    if text(i) == "{" && text(i.wrapping_sub(1)) == "::" {
        i += 1;
        while !matches!(text(i), "}" | "") {
            let next = spread(tokens, i, prefix, found);
            i = next.max(i + 1);
            // The rest of an entry: `as name`, `*`, and the comma.
            while !matches!(text(i), "," | "}" | "") {
                i += 1;
            }
            i += usize::from(text(i) == ",");
        }
        i += 1;
    } else {
        found.push(prefix.clone());
    }
    prefix.truncate(depth);
    i
}

/// What `#[cfg(test)]` stands before: up to the end of its block, or of its statement.
fn test_items(code: &str) -> Vec<Range<usize>> {
    const MARK: &str = "#[cfg(test)]";
    let mut items: Vec<Range<usize>> = Vec::new();
    for (start, _) in code.match_indices(MARK) {
        if items.last().is_some_and(|last| last.contains(&start)) {
            continue;
        }
        let mut depth = 0_usize;
        let body = start + MARK.len();
        let end = code[body..].char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            (depth == 0 && matches!(c, '}' | ';')).then_some(body + i + 1)
        });
        items.push(start..end.unwrap_or(code.len()));
    }
    items
}

/// Blanks comments and the contents of literals; hands out the contents of strings.
fn strip(text: &str) -> (String, Vec<(usize, String)>) {
    let mut code = String::with_capacity(text.len());
    let mut strings = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let after_name = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let raw = if after_name { None } else { raw_string(rest) };
        let (length, content) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (block_comment(rest), None)
        } else if let Some((length, content)) = raw {
            (length, Some(content))
        } else if c == '"' {
            let length = quoted(rest, '"');
            (length, Some(rest[1..].get(..length.saturating_sub(2)).unwrap_or_default()))
        } else if c == '\'' && is_char_literal(rest) {
            (quoted(rest, '\''), None)
        } else {
            code.push(c);
            at += c.len_utf8();
            continue;
        };
        if let Some(content) = content {
            strings.push((text[..at].matches('\n').count() + 1, content.to_owned()));
        }
        code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        at += length;
    }
    (code, strings)
}

/// The length of the comment, in which others can stand.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// `r"…"`, `br#"…"#` and so on: its length and content.
fn raw_string(rest: &str) -> Option<(usize, &str)> {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|p| rest.strip_prefix(p).is_some_and(|after| after.trim_start_matches('#').starts_with('"')))?;
    let hashes = rest[prefix.len()..].find('"')?;
    let start = prefix.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = rest[start..].find(&end)?;
    Some((start + length + end.len(), &rest[start..start + length]))
}

/// From the quote to the one that ends it.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        if c == quote && !escaped {
            return i + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

/// `'a'` and `'\n'`, not the lifetime `'a`.
fn is_char_literal(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

#[test]
fn comments_and_literals_are_blanked_and_lines_kept() {
    let text = "a // crate::x \"\n/* /* b */ \" */ c(\"d\\\"\n e\", r#\"f\"g\"#, 'h', '\\'', &'i j)";
    let source = Source::new("src/x.rs", text);
    let seen: Vec<_> = tokens(&source.code).iter().map(|t| format!("{}{}", t.line, t.text)).collect();
    assert_eq!(seen.join(" "), "1a 2c 2( 3, 3, 3, 3, 3& 3' 3i 3j 3)");
    assert_eq!(source.strings, [(2, "d\\\"\n e".to_owned()), (3, "f\"g".to_owned())]);
}

#[test]
fn paths_are_found_whole_and_groups_are_spread() {
    let text = "use crate::{a::{B, c::*}, d as e};\nfn f() -> ::g::H { x.y::<Vec::<u8>>::z(super::super::i::j()) }\nuse k;";
    let found: Vec<_> =
        Source::new("src/x.rs", text).paths().iter().map(|p| (p.line, p.segments.join("::"))).collect();
    let expected = [
        (1, "crate::a::B"),
        (1, "crate::a::c"),
        (1, "crate::d"),
        (2, "g::H"),
        (2, "Vec"),
        (2, "super::super::i::j"),
        (3, "k"),
    ];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
}

#[test]
fn test_items_are_known_and_not_counted() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { x() }\n}\nfn c() { x() }\n#[cfg(test)]\nmod more;\n";
    let source = Source::new("src/x.rs", text);
    assert_eq!(source.shipped_lines(), 2);
    assert_eq!(source.uses("x"), [Use { line: 4, in_test: true }, Use { line: 6, in_test: false }]);
    assert!(Source::new("src/x/tests.rs", "").is_test() && !Source::new("src/tests_of.rs", "").is_test());
}
