//! The diffable log of a case: the lines that a golden holds.
//!
//! It belongs to one case, is off in a library and is turned on once. Everything logged goes
//! through the filters of the case, so no path, time or generated name can reach a golden. The
//! harness's debugging output uses `tracing`, which is separate.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::author::filter::Filter;

/// Something to log: text or JSON, and its formatting.
#[derive(Clone, Debug)]
pub struct Entry {
    content: Content,
    indent: Option<usize>,
    ordered: bool,
    filters: Vec<Filter>,
}

#[derive(Clone, Debug)]
enum Content {
    Text(String),
    Json(Value),
}

impl Entry {
    fn of(content: Content) -> Self {
        Entry {
            content,
            indent: None,
            ordered: false,
            filters: Vec::new(),
        }
    }

    /// Writes JSON on several lines, indenting each level by this many spaces.
    #[must_use]
    pub fn indent(mut self, spaces: usize) -> Self {
        self.indent = Some(spaces);
        self
    }

    /// Keeps the order of JSON keys; they are sorted by default, because QEMU guarantees no order.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Hides more than what always differs between two runs.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }

    /// The lines of this entry, filtered by `first` and then by its own filters.
    #[must_use]
    pub fn render(self, first: &Filter) -> String {
        match self.content {
            Content::Text(text) => {
                let all = self.filters.into_iter().fold(first.clone(), Filter::then);
                all.text(&text).into_owned()
            }
            Content::Json(value) => {
                let all = self.filters.into_iter().fold(first.clone(), Filter::then);
                let mut value = all.json(value);
                if !self.ordered {
                    sort_keys(&mut value);
                }
                let mut text = String::new();
                write_json(&mut text, &value, self.indent, 0);
                text
            }
        }
    }
}

/// How the harness's actions for a case are logged: `t.narrate(true)`, or with the format hidden
/// and JSON on several lines `t.narrate(Narration::new().indent(2).filter(…))`.
#[derive(Clone, Debug, Default)]
pub struct Narration {
    off: bool,
    indent: Option<usize>,
    filters: Vec<Filter>,
}

impl Narration {
    /// One line per message, hiding only what always differs between two runs.
    #[must_use]
    pub fn new() -> Self {
        Narration::default()
    }

    /// Writes JSON on several lines, indenting each level by this many spaces.
    #[must_use]
    pub fn indent(mut self, spaces: usize) -> Self {
        self.indent = Some(spaces);
        self
    }

    /// Hides more, such as the format, so that one golden serves all formats.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }

    pub(crate) fn is_on(&self) -> bool {
        !self.off
    }

    /// Applies the style to an entry.
    pub(crate) fn style(&self, entry: Entry) -> Entry {
        let mut entry = self.filters.iter().cloned().fold(entry, Entry::filter);
        entry.indent = entry.indent.or(self.indent);
        entry
    }
}

impl From<bool> for Narration {
    fn from(on: bool) -> Self {
        Narration {
            off: !on,
            ..Narration::default()
        }
    }
}

impl From<&str> for Entry {
    fn from(text: &str) -> Self {
        Entry::of(Content::Text(text.to_owned()))
    }
}

impl From<String> for Entry {
    fn from(text: String) -> Self {
        Entry::of(Content::Text(text))
    }
}

impl From<Value> for Entry {
    fn from(value: Value) -> Self {
        Entry::of(Content::Json(value))
    }
}

impl From<&Value> for Entry {
    fn from(value: &Value) -> Self {
        Entry::of(Content::Json(value.clone()))
    }
}

/// Sorts the keys of all objects in the value.
fn sort_keys(value: &mut Value) {
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(object) => {
                object.sort_keys();
                left.extend(object.values_mut());
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
}

/// Writes JSON in the style of upstream's goldens: a space after each comma and colon.
fn write_json(out: &mut String, value: &Value, indent: Option<usize>, depth: usize) {
    let line = |out: &mut String, depth: usize| {
        if let Some(spaces) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', spaces * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(separator);
                }
                line(out, depth + 1);
                write_json(out, item, indent, depth + 1);
            }
            line(out, depth);
            out.push(']');
        }
        Value::Object(object) if !object.is_empty() => {
            out.push('{');
            for (index, (key, item)) in object.iter().enumerate() {
                if index > 0 {
                    out.push_str(separator);
                }
                line(out, depth + 1);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write_json(out, item, indent, depth + 1);
            }
            line(out, depth);
            out.push('}');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

/// The log of one case.
#[derive(Debug)]
pub struct Log {
    filter: Filter,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    on: bool,
    lines: String,
    /// How much of `lines` has been compared with a golden.
    compared: usize,
}

impl Log {
    /// A log that is off and drops all entries.
    #[must_use]
    pub fn new(filter: Filter) -> Self {
        Log {
            filter,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns the log on, or off again.
    pub fn turn(&self, on: bool) {
        self.state().on = on;
    }

    /// Whether entries are kept.
    #[must_use]
    fn is_on(&self) -> bool {
        self.state().on
    }

    /// Logs text or JSON, and returns the lines if the log is on.
    pub fn say(&self, entry: impl Into<Entry>) -> Option<String> {
        if !self.is_on() {
            return None;
        }
        let text = entry.into().render(&self.filter);
        let mut state = self.state();
        state.lines.push_str(&text);
        state.lines.push('\n');
        Some(text)
    }

    /// Takes what was logged since the last comparison with a golden, for a new comparison.
    #[must_use]
    pub fn take(&self) -> String {
        let mut state = self.state();
        let taken = state.lines[state.compared..].to_owned();
        state.compared = state.lines.len();
        taken
    }

    /// Whether any logged lines have not been compared with a golden.
    #[must_use]
    pub fn is_uncompared(&self) -> bool {
        let state = self.state();
        state.compared < state.lines.len()
    }

    /// The filter that everything in this log goes through.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::filter::Hidden;
    use serde_json::json;

    fn log() -> Log {
        let log = Log::new(Filter::unsteady(&[Hidden::new("/w", "TEST_DIR")]));
        log.turn(true);
        log
    }

    /// H13: there is one switch; while the log is off nothing is kept, and nothing is kept twice.
    #[test]
    fn a_log_is_switched_once_and_keeps_each_line_once() {
        let log = Log::new(Filter::All(vec![]));
        assert_eq!(log.say("as a library"), None);
        log.turn(true);
        log.say("one");
        log.say("two");
        assert_eq!(log.take(), "one\ntwo\n");
        log.say("three");
        assert!(log.is_uncompared());
        assert_eq!(log.take(), "three\n");
        log.turn(false);
        log.say("four");
        assert!(!log.is_uncompared());
    }

    /// H18: text or JSON; keys sorted unless ordered; indented when asked.
    #[test]
    fn json_is_sorted_unless_it_is_ordered_and_is_indented_when_asked() {
        let log = log();
        let value = json!({"b": [1, {"d": null, "c": "/w/x"}], "a": {}, "e": []});
        log.say(&value);
        log.say(Entry::from(&value).ordered());
        log.say(Entry::from(value).indent(2));
        assert_eq!(
            log.take(),
            "{\"a\": {}, \"b\": [1, {\"c\": \"TEST_DIR/x\", \"d\": null}], \"e\": []}\n\
             {\"b\": [1, {\"d\": null, \"c\": \"TEST_DIR/x\"}], \"a\": {}, \"e\": []}\n\
             {\n  \"a\": {},\n  \"b\": [\n    1,\n    {\n      \"c\": \"TEST_DIR/x\",\n      \"d\": null\n    }\n  ],\n  \"e\": []\n}\n"
        );
    }

    /// H13: one golden serves several formats if narration hides the format.
    #[test]
    fn narration_has_its_own_indentation_and_filters() {
        let log = log();
        let format = Filter::ImageFormat("qcow2".into());
        let narration = Narration::new().indent(2).filter(format);
        log.say(narration.style(Entry::from(json!({"driver": "qcow2", "file": "/w/x"}))));
        log.say(narration.style(Entry::from("a qcow2 image")));
        log.say(narration.style(Entry::from(json!([1])).indent(1)));
        assert_eq!(
            log.take(),
            "{\n  \"driver\": \"IMGFMT\",\n  \"file\": \"TEST_DIR/x\"\n}\na IMGFMT image\n[\n 1\n]\n"
        );
        assert!(Narration::from(true).is_on() && !Narration::from(false).is_on());
    }

    #[test]
    fn filters_of_an_entry_come_after_those_of_the_log() {
        let log = log();
        log.say(Entry::from("raw in /w/raw").filter(Filter::ImageFormat("raw".into())));
        log.say(Entry::from(json!(["virtio-scsi-pci"])).filter(Filter::VirtioScsi));
        assert_eq!(log.take(), "IMGFMT in TEST_DIR/IMGFMT\n[\"virtio-scsi\"]\n");
    }
}
