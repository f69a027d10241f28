//! A text that is expected: exactly, or by a regular expression over all of it.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// How large a compiled expression may be, in bytes.
const MAX_COMPILED: usize = 1 << 20;

/// A text that is expected.
#[derive(Clone)]
pub enum Text {
    /// This one.
    Exact(String),
    /// One that matches from its beginning to its end.
    Matching(String, Regex),
}

/// Why a text is no regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no regular expression (RE2): {0}")]
pub struct TextError(String);

impl Text {
    /// A regular expression, anchored at both ends whatever it says.
    ///
    /// # Errors
    /// When it is none, by itself: what is only whole with what we put around it could match less than the whole text.
    pub fn matching(expression: &str) -> Result<Self, TextError> {
        let compile = |text: &str| {
            RegexBuilder::new(text).size_limit(MAX_COMPILED).build().map_err(|error| {
                let last = error.to_string();
                TextError(last.lines().last().unwrap_or_default().trim().to_owned())
            })
        };
        compile(expression)?;
        let anchored = compile(&format!(r"\A(?:{expression})\z"))?;
        Ok(Self::Matching(expression.to_owned(), anchored))
    }

    /// Whether it is this one. A text with control characters, such as a new line, is none that anybody has.
    pub fn is(&self, text: &str) -> bool {
        match self {
            Self::Exact(expected) => expected == text,
            Self::Matching(_, regex) => !text.chars().any(char::is_control) && regex.is_match(text),
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Matching(a, _), Self::Matching(b, _)) => a == b,
            (Self::Exact(_), Self::Matching(..)) | (Self::Matching(..), Self::Exact(_)) => false,
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Matching(text, _) => write!(f, "/{text}/"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, whoever gets a name that only holds the expected one is taken for it.
    #[test]
    fn an_expression_is_about_the_whole_text() {
        let text = Text::matching("https://ci.example/(a|b)|mailto:x@ci.example").unwrap();
        assert!(text.is("https://ci.example/a") && text.is("mailto:x@ci.example"));
        for other in [
            "https://ci.example/ab",
            "https://evil.example/?https://ci.example/a",
            "https://ci.example/a\n",
            "https://ci.example/a\nhttps://evil.example",
            "\nhttps://ci.example/a",
            "mailto:x@ci.example.evil",
            "",
        ] {
            assert!(!text.is(other), "{other:?}");
        }
        for multi_line in ["(?m)^a$", "(?s)a.*", "(?m:^a$)", "a(?-u:\\b)"] {
            let text = Text::matching(multi_line).unwrap();
            assert!(!text.is("b\na") && !text.is("a\nb") && !text.is("a\n"), "{multi_line}");
        }
        for broken in ["a)|(?:b", "(?x)a #", "(", "a{1000000}", "\\p{X}", "*"] {
            assert!(Text::matching(broken).is_err(), "{broken}");
        }
        assert!(Text::Exact("a".into()).is("a") && !Text::Exact("a".into()).is("a\n"));
    }
}
