//! Shows the libraries' traces in the style of this program's messages.

use std::time::Instant;

use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Shows the libraries' traces on standard error. May be called once per process.
pub(super) fn show(level: Level) {
    // Fails if a subscriber is already installed, which then takes precedence.
    let _ = subscriber(level, std::io::stderr, Traced::default()).try_init();
}

/// Shows traces with the time since this call, and these folders by their names. Leaves out QMP
/// messages, which the transcript shows. May be called once per process.
pub(super) fn show_all(folders: Vec<(String, &'static str)>) {
    let since = Some(Instant::now());
    let _ = subscriber(Level::DEBUG, std::io::stderr, Traced { since, folders }).try_init();
}

fn subscriber<W>(level: Level, writer: W, traced: Traced) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(writer)
        .with_ansi(false)
        // Do not panic if standard error is closed.
        .log_internal_errors(false)
        .event_format(traced)
        .finish()
}

/// Formats traces like the program's own messages: `warning: text`.
#[derive(Default)]
struct Traced {
    /// The origin of the times shown; `None` to show no times.
    since: Option<Instant>,
    /// Paths, and the names shown instead.
    folders: Vec<(String, &'static str)>,
}

impl<S, N> FormatEvent<S, N> for Traced
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let word = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "note",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        if let Some(since) = self.since {
            write!(writer, "{:>8.3} s ", since.elapsed().as_secs_f64())?;
        }
        write!(writer, "{word}: ")?;
        for span in context.event_scope().into_iter().flatten() {
            write!(writer, "{}: ", span.name())?;
        }
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        for (folder, name) in &self.folders {
            text = text.replace(folder, name);
        }
        writeln!(writer, "{text}")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_trace_looks_like_our_own_warnings_without_colours() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = Arc::new(file.reopen().unwrap());
        let traced = Traced {
            since: None,
            folders: vec![("/long/way/test".to_owned(), "TEST_DIR")],
        };
        tracing::subscriber::with_default(subscriber(Level::WARN, writer, traced), || {
            tracing::warn!(count = 2, "odd in /long/way/test/a.img");
            tracing::info!("not shown");
        });
        let mut text = String::new();
        file.as_file().read_to_string(&mut text).unwrap();
        assert_eq!(text, "warning: odd in TEST_DIR/a.img count=2\n");
    }
}
