//! Notations of scalars that scanners of YAML 1.1 and 1.2 read differently.

use granit_parser::ScalarStyle;

/// Checks a scalar's own text in the file; `flow` inside brackets, `root` when it is the whole document.
pub(super) fn check(source: &str, style: ScalarStyle, flow: bool, root: bool) -> Result<(), &'static str> {
    match style {
        ScalarStyle::Plain if flow => plain_in_flow(source),
        ScalarStyle::DoubleQuoted if has_odd_escape(source) => Err("the escape `\\/` or a surrogate"),
        ScalarStyle::Literal | ScalarStyle::Folded if root => Err("a block scalar that is a whole document"),
        // Go looks for the indentation of the first line and finds the tab instead.
        ScalarStyle::Literal | ScalarStyle::Folded
            if source.trim_start_matches([' ', '\n']).starts_with('\t') =>
        {
            Err("a block scalar that starts with a tab")
        }
        _ => Ok(()),
    }
}

/// go-yaml ends such a scalar at `?` and takes a `:` at its start for an indicator, and one at its end for text.
fn plain_in_flow(source: &str) -> Result<(), &'static str> {
    if source.contains('?') {
        return Err("`?` in text inside brackets");
    }
    if source.starts_with(':') || source.ends_with(':') {
        return Err("`:` at the end of text inside brackets");
    }
    Ok(())
}

/// JSON's `\/` and its surrogate pairs are unknown to go-yaml.
fn has_odd_escape(source: &str) -> bool {
    let mut rest = source;
    while let Some((_, escape)) = rest.split_once('\\') {
        let hex = match escape.as_bytes() {
            [b'/', ..] => return true,
            [b'u', hex @ ..] | [b'U', b'0', b'0', b'0', b'0', hex @ ..] => hex,
            _ => &[],
        };
        if matches!(hex, [b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..]) {
            return true;
        }
        rest = escape.get(1..).unwrap_or_default();
    }
    false
}
