//! What a call reports to a tracing subscriber.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::calls::{connect, echo};

/// Records all fields of spans and events of this crate, as `name.field=value`.
#[derive(Clone, Default)]
struct Notes {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicU64>,
}

struct Prefixed<'a>(&'a Notes, String);

impl Visit for Prefixed<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let line = format!("{}.{}={value:?}", self.1, field.name());
        self.0.lines.lock().unwrap().push(line);
    }
}

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "qmp"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.spans.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("{}{id}", span.metadata().name());
        span.record(&mut Prefixed(self, name));
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        values.record(&mut Prefixed(self, format!("call{}", span.into_u64())));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let parent = event.parent().map_or(0, Id::into_u64);
        event.record(&mut Prefixed(self, format!("event{parent}")));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn each_call_has_a_span_with_its_command_id_and_latency() {
    let notes = Notes::default();
    let _guard = tracing::subscriber::set_default(notes.clone());
    let (client, control) = connect(echo()).await;
    for n in 1..=2 {
        client.execute("echo", json!({"n": n})).await.unwrap();
        let lines: Vec<String> = notes.lines.lock().unwrap().drain(..).collect();
        let has = |line: &str| lines.iter().any(|it| it == line);
        let id = control.requests()[n - 1].id.clone().unwrap();
        assert!(has(&format!("call{n}.command=\"echo\"")), "{lines:?}");
        assert!(has(&format!("call{n}.id={id}")), "{lines:?}");
        let latency = format!("call{n}.latency=");
        assert!(lines.iter().any(|it| it.starts_with(&latency)), "{lines:?}");
        // The reply is logged inside the span, though another task has read it.
        assert!(has(&format!("event{n}.id={id}")), "{lines:?}");
    }
}
