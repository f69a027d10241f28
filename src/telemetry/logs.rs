//! Logs: one event is one line on standard error, whatever the fields hold.
//!
//! Image names, commit messages and file contents come from people we do not trust, and logs are read in terminals and by
//! programs that split at newlines. So everything that could end a line, move a cursor or reorder text is escaped, in both
//! formats. tracing-subscriber escapes some of it (RUSTSEC-2025-0055), but neither newlines nor text direction.

use std::fmt::{self, Write as _};

use clap::ValueEnum;
use thiserror::Error;
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format},
    layer::SubscriberExt,
    registry::LookupSpan,
};

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: time, level, spans, message, fields.
    Text,
    /// For programs: one JSON object.
    Json,
}

/// Why there are no logs.
#[derive(Debug, Error)]
pub enum Error {
    /// The filter cannot be read.
    #[error("cannot read the log filter {filter:?}; an example is info,countersign=debug")]
    Filter {
        /// The filter as it was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else in this process set up logging before.
    #[error("logging was already set up in this process")]
    AlreadySet(#[source] tracing_subscriber::util::TryInitError),
}

/// Sends the events of this process to standard error, as `filter` selects them (`info,countersign=debug`).
/// Records of the `log` crate come along.
///
/// # Errors
/// The filter cannot be read, or this was called before.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), Error> {
    use tracing_subscriber::util::SubscriberInitExt as _;
    let filter = parse(filter)?;
    match format {
        LogFormat::Text => text(filter, std::io::stderr).try_init(),
        LogFormat::Json => json(filter, std::io::stderr).try_init(),
    }
    .map_err(Error::AlreadySet)
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(filter).map_err(|source| Error::Filter { filter: filter.to_owned(), source })
}

fn text<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync + 'static
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let events = OneLine { inner: format(), escape: escape_text };
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).event_format(events).with_writer(writer);
    tracing_subscriber::registry().with(filter).with(layer)
}

fn json<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync + 'static
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let events = OneLine { inner: format().json().flatten_event(true), escape: escape_json };
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .fmt_fields(format::JsonFields::new())
        .event_format(events)
        .with_writer(writer);
    tracing_subscriber::registry().with(filter).with(layer)
}

/// Lets `inner` write the event, then escapes what it wrote.
struct OneLine<F> {
    inner: F,
    escape: fn(char, &mut String) -> fmt::Result,
}

impl<S, N, F> FormatEvent<S, N> for OneLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut raw = String::new();
        self.inner.format_event(ctx, format::Writer::new(&mut raw), event)?;
        let mut line = String::with_capacity(raw.len() + 1);
        for c in raw.trim_end_matches('\n').chars() {
            if is_unsafe(c) {
                (self.escape)(c, &mut line)?;
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        writer.write_str(&line)
    }
}

/// Control characters, line separators, and the marks that change the direction of text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape_text(c: char, line: &mut String) -> fmt::Result {
    write!(line, "{}", c.escape_default())
}

/// Outside its strings JSON is plain ASCII, so what is found here stands in a string, where this is its escape.
/// All these characters fit into one `\u`.
fn escape_json(c: char, line: &mut String) -> fmt::Result {
    write!(line, "\\u{:04x}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// Every kind of character that must not reach a terminal or a line-based reader.
    const HOSTILE: &str =
        "a\nb\r\nc\td\u{1b}[2Je\u{7}f\u{8}g\u{7f}h\u{9b}31mi\u{202e}j\u{2028}k\u{2066}l\u{0}m";

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, emit: impl FnOnce()) -> String {
        let captured = Captured::default();
        let (filter, writer) = (parse(filter).unwrap(), captured.clone());
        match format {
            LogFormat::Text => {
                tracing::subscriber::with_default(text(filter, move || writer.clone()), emit);
            }
            LogFormat::Json => {
                tracing::subscriber::with_default(json(filter, move || writer.clone()), emit);
            }
        }
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// A hostile value in each place where one can stand: the message, fields by Display and by Debug, a span's field.
    fn hostile_event() {
        let span = tracing::info_span!("round", object = %HOSTILE);
        let _entered = span.enter();
        tracing::info!(image = %HOSTILE, reason = ?HOSTILE, plain = HOSTILE, "pulled {HOSTILE}");
    }

    /// Otherwise a commit message forges log lines or steers the terminal of whoever reads the log.
    #[test]
    fn a_hostile_value_stays_within_its_line() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let log = logged(format, "info", hostile_event);
            let line = log.strip_suffix('\n').expect("an event ends its line");
            assert!(!line.contains(is_unsafe), "{format:?}: {line:?}");
            assert!(line.len() > 5 * HOSTILE.len(), "{format:?}: nothing was lost: {line}");
        }
    }

    #[test]
    fn text_shows_a_newline_as_its_escape() {
        let log = logged(LogFormat::Text, "info", || tracing::info!(image = %"cart\nERROR forged", "pinned"));
        assert!(log.contains(r"pinned image=cart\nERROR forged"), "{log}");
    }

    /// Escaping must not break the JSON, nor change the value that its reader gets back.
    #[test]
    fn json_gives_the_value_back() {
        let log = logged(LogFormat::Json, "info", || {
            tracing::info!(plain = "x\n\u{7f}\u{202e}y", "done");
        });
        let value: serde_json::Value = serde_json::from_str(&log).unwrap();
        assert_eq!(value["plain"], "x\n\u{7f}\u{202e}y");
        assert_eq!(value["message"], "done");
        assert_eq!(value["level"], "INFO");
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn the_filter_selects_by_level_and_module() {
        let log = logged(LogFormat::Text, "warn,countersign=debug", || {
            tracing::debug!("ours");
            tracing::info!(target: "elsewhere", "theirs");
        });
        assert!(log.contains("ours") && !log.contains("theirs"), "{log}");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = parse("info,countersign=loud").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"cannot read the log filter "info,countersign=loud"; an example is info,countersign=debug"#
        );
    }
}
