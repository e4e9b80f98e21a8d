//! The log: structured lines on standard error.
//!
//! Promises text for people or JSON for machines, colours only on a terminal that wants them, and one line
//! for a panic. A line inside a request or a command carries its `correlation.id`, because the code opens
//! [`request_span`] around it. Never logs payloads, secrets or addresses: that is up to whoever logs, and the
//! house rules forbid it.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Once;

use horizons_actors::ids::CorrelationId;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat, LogLevel};

/// Tells that a log is set up already.
#[derive(Debug, thiserror::Error)]
#[error("failed to set up the log: another one is in place")]
pub struct TelemetryError;

impl TelemetryError {
    /// Tells whether trying again may succeed: never.
    pub const fn is_transient(&self) -> bool {
        false
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
/// *Errors*: [`TelemetryError`] when a log is set up already.
pub fn start(log: Log, environment: &BTreeMap<String, String>) -> Result<(), TelemetryError> {
    let colour = wants_colour(std::io::stderr().is_terminal(), environment);
    tracing::subscriber::set_global_default(subscriber(log, colour, std::io::stderr))
        .map_err(|_| TelemetryError)?;
    report_panics();
    Ok(())
}

/// Builds the subscriber for a writer.
fn subscriber<W>(log: Log, colour: bool, writer: W) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_max_level(filter(log.level)).with_writer(writer);
    match log.format {
        LogFormat::Text => Box::new(builder.with_ansi(colour).finish()),
        LogFormat::Json => Box::new(
            builder.json().flatten_event(true).with_current_span(false).with_span_list(true).finish(),
        ),
    }
}

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
            tracing::error!(
                panic.place = place,
                thread = thread.name().unwrap_or("unnamed"),
                error = panic_text(panic.payload()),
                "code panicked"
            );
            // A process that aborts right after must not lose the line; standard error that is gone is no
            // reason to panic again.
            let _ = std::io::stderr().flush();
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

    #[test]
    fn panic_text_every_payload_is_named() {
        assert_eq!(panic_text(&"plain"), "plain");
        assert_eq!(panic_text(&"owned".to_owned()), "owned");
        assert_eq!(panic_text(&7_u8), "panic without text");
    }
}
