//! The log: structured lines on standard error.
//!
//! Promises text for people or JSON for machines, colours only on a terminal that wants them, and one line
//! for a panic. Whoever logs never waits for whoever reads the log, and no value of a field can forge a line or steer
//! a terminal. A line inside a request or a command carries its `correlation.id`, because the code opens
//! [`request_span`] around it. Never logs payloads, secrets or addresses: that is up to whoever logs, and the
//! house rules forbid it.

mod queue;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::{Once, OnceLock};
use std::time::Duration;

use horizons_actors::ids::CorrelationId;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::debug_fn;

use self::queue::{LIMIT_BYTES, LineQueue, StandardError};
use crate::config::{Log, LogFormat, LogLevel};
use crate::shown::{Shown, is_hidden, shown_json, shown_lines};

/// How long an end waits for the last lines; a reader that reads takes them at once.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// How panics begin that abort the process when they have been reported.
///
/// *Source*: `core::panicking`: a function that cannot unwind, a destructor during cleanup.
const ABORTING: &str = "panic in a ";

/// The log of this process.
static QUEUE: OnceLock<LineQueue> = OnceLock::new();

/// Tells why a log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// There is one.
    #[error("failed to set up the log: another one is in place")]
    Another,
    /// Its thread cannot be started.
    #[error("failed to start the log's thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl TelemetryError {
    /// Tells whether trying again may succeed.
    pub const fn is_transient(&self) -> bool {
        matches!(self, TelemetryError::Thread(_))
    }
}

/// Decides whether text on a stream is coloured.
///
/// *Source*: <https://no-color.org>: `NO_COLOR` set to anything but the empty text switches colours off.
pub fn wants_colour(is_terminal: bool, environment: &BTreeMap<String, String>) -> bool {
    let is_refused = environment.get("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = environment.get("TERM").is_some_and(|terminal| terminal == "dumb");
    is_terminal && !is_refused && !is_dumb
}

/// Sets the log of this process up, on standard error, and reports panics through it.
///
/// *Errors*: [`TelemetryError`].
pub fn start(log: Log, environment: &BTreeMap<String, String>) -> Result<(), TelemetryError> {
    let colour = wants_colour(std::io::stderr().is_terminal(), environment);
    let queue = LineQueue::start(StandardError, LIMIT_BYTES, |lines| {
        tracing::error!(lines, "lines of the log were dropped: its reader did not read");
    })?;
    tracing::subscriber::set_global_default(subscriber(log, colour, queue.clone()))
        .map_err(|_| TelemetryError::Another)?;
    // The first subscriber is the only one.
    let _set = QUEUE.set(queue);
    report_panics();
    Ok(())
}

/// Waits for the last lines to be written, with a limit; whoever ends the process calls it before.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        // What the reader has not taken by then is lost with the process.
        let _all = queue.flush(LAST_WORDS_LIMIT);
    }
}

/// Says a sentence to whoever watches the program: in the log's way where there is a log, else on standard error.
pub fn say(text: &str) {
    let line = format!("{}\n", shown_lines(text));
    match QUEUE.get() {
        Some(queue) => queue.push(line.as_bytes()),
        // Where standard error is gone, the exit code still tells.
        None => drop(std::io::stderr().write_all(line.as_bytes())),
    }
}

/// Counts the lines that were dropped because the log's reader did not read.
pub fn dropped_lines() -> u64 {
    QUEUE.get().map_or(0, LineQueue::dropped)
}

/// Builds the subscriber for a writer.
fn subscriber<W>(log: Log, colour: bool, writer: W) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_max_level(filter(log.level)).with_writer(writer);
    match log.format {
        LogFormat::Text => {
            // Every field of every line and span passes here, whoever logs it.
            let fields = debug_fn(|writer, field, value| {
                if field.name() != MESSAGE {
                    write!(writer, "{field}=")?;
                }
                write!(Shown(writer), "{value:?}")
            });
            Box::new(builder.with_ansi(colour).fmt_fields(fields.delimited(" ")).finish())
        }
        LogFormat::Json => Box::new(
            builder
                .map_writer(EscapedJson)
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(true)
                .finish(),
        ),
    }
}

/// Escapes in lines of JSON what JSON would let stand.
struct EscapedJson<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for EscapedJson<W> {
    type Writer = EscapedJson<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapedJson(self.0.make_writer())
    }
}

impl<W: Write> Write for EscapedJson<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        match std::str::from_utf8(line) {
            Ok(text) if text.chars().any(is_hidden) => self.0.write_all(shown_json(text).as_bytes())?,
            // The subscriber makes its lines of text.
            Ok(_) | Err(_) => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// What the subscriber calls the text of a line.
const MESSAGE: &str = "message";

const fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Opens the span that puts a correlation id on every line inside it.
pub fn request_span(correlation_id: CorrelationId) -> tracing::Span {
    tracing::info_span!("request", correlation.id = %correlation_id)
}

/// Makes a panic one log line, place and thread included, in place of the standard hook's text.
///
/// Whoever catches the unwind decides what it means and logs that; this line is the only one that knows the
/// place.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let thread = std::thread::current();
            let text = panic_text(panic.payload());
            tracing::error!(
                panic.place = place,
                thread = thread.name().unwrap_or("unnamed"),
                error = text,
                "code panicked"
            );
            if text.starts_with(ABORTING) {
                flush();
            }
        }));
    });
}

/// Gives the text of a panic.
fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    use uuid::Uuid;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: Log, colour: bool, act: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        tracing::subscriber::with_default(subscriber(log, colour, move || writer.clone()), act);
        captured.text()
    }

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn colour_every_case_follows_terminal_and_wish() {
        let cases = [
            (true, &[][..], true),
            (false, &[], false),
            (true, &[("NO_COLOR", "1")], false),
            (true, &[("NO_COLOR", "")], true),
            (true, &[("TERM", "dumb")], false),
        ];
        for (is_terminal, pairs, wanted) in cases {
            assert_eq!(wants_colour(is_terminal, &environment(pairs)), wanted, "{is_terminal} {pairs:?}");
        }
    }

    #[test]
    fn log_json_line_carries_correlation_id() {
        let id = CorrelationId(Uuid::from_u128(7));

        let text = logged(Log { format: LogFormat::Json, level: LogLevel::Info }, true, || {
            request_span(id).in_scope(|| tracing::info!(job.id = "j-1", "job accepted"));
        });

        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "job accepted");
        assert_eq!(line["job.id"], "j-1");
        assert_eq!(line["spans"][0]["correlation.id"], id.to_string());
    }

    #[test]
    fn log_below_level_writes_nothing() {
        let log = Log { format: LogFormat::Text, level: LogLevel::Warn };

        let text = logged(log, false, || {
            tracing::info!("state changed");
            tracing::warn!("degraded");
        });

        assert!(text.contains("degraded") && !text.contains("state changed"), "{text}");
    }

    #[test]
    fn log_text_colours_only_when_wanted() {
        let log = Log { format: LogFormat::Text, level: LogLevel::Info };

        let plain = logged(log, false, || tracing::info!("hello"));
        let coloured = logged(log, true, || tracing::info!("hello"));

        assert!(!plain.contains('\u{1b}'), "{plain}");
        assert!(coloured.contains('\u{1b}'), "{coloured}");
    }

    /// Whatever comes from outside reaches the log as a field's value or within the text, by one of these ways.
    fn log_hostile(text: &str) {
        let error = std::io::Error::other(text.to_owned());
        let span = tracing::info_span!("work", file = text, key = %text);
        span.in_scope(|| tracing::info!(as_text = text, shown = %text, debug = ?text, %error, "said {text}"));
    }

    #[test]
    fn log_text_no_field_forges_a_line_or_steers_a_terminal() {
        let log = Log { format: LogFormat::Text, level: LogLevel::Info };
        let hostile =
            "x\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}1m\u{7f}\u{85}\u{202e}\u{2028}\u{feff}";

        let plain = logged(log, false, || log_hostile(hostile));

        let line = plain.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(is_hidden), "{line:?}");
        for form in [
            "said x\\n",
            "as_text=\"x\\n",
            "shown=x\\n",
            "debug=\"x\\n",
            "error=x\\n",
            "file=\"x\\n",
            "key=x\\n",
        ] {
            assert!(line.contains(form), "{form}: {line}");
        }
        assert!(
            line.contains("forged\\r\\u{1b}[2J\\u{9b}1m\\u{7f}\\u{85}\\u{202e}\\u{2028}\\u{feff}"),
            "{line}"
        );
    }

    #[test]
    fn log_json_hidden_characters_are_escaped_and_mean_the_same() {
        let log = Log { format: LogFormat::Json, level: LogLevel::Info };
        let hostile = "x\n\u{1b}[2J\u{9b}\u{7f}\u{202e}\u{2028}\u{e0041}";

        let text = logged(log, false, || log_hostile(hostile));

        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(is_hidden), "{line:?}");
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((value["as_text"].as_str(), value["shown"].as_str()), (Some(hostile), Some(hostile)));
    }

    #[test]
    fn panic_text_every_payload_is_named() {
        assert_eq!(panic_text(&"plain"), "plain");
        assert_eq!(panic_text(&"owned".to_owned()), "owned");
        assert_eq!(panic_text(&7_u8), "panic without text");
    }
}
