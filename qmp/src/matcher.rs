//! Selects events by name, by part of their data, or by a condition.

use std::fmt;
use std::sync::Arc;

use serde_json::{Number, Value};

use crate::message::Event;

type Condition = Arc<dyn Fn(&Event) -> bool + Send + Sync>;

/// A description of events. All of its criteria must hold; one without criteria matches any event.
///
/// ```
/// use qmp::Matcher;
/// use serde_json::json;
///
/// let matcher = Matcher::event("JOB_STATUS_CHANGE").data(json!({"id": "job0"}));
/// let event = qmp::Event::new("JOB_STATUS_CHANGE")
///     .with_data(json!({"id": "job0", "status": "ready"}).as_object().unwrap().clone());
/// assert!(matcher.matches(&event));
/// ```
#[derive(Clone, Default)]
pub struct Matcher {
    names: Option<Vec<String>>,
    data: Option<Value>,
    condition: Option<Condition>,
}

impl Matcher {
    /// Matches every event.
    pub fn any() -> Self {
        Self::default()
    }

    /// Matches events of this name.
    pub fn event(name: impl Into<String>) -> Self {
        Self {
            names: Some(vec![name.into()]),
            ..Self::default()
        }
    }

    /// Matches events with one of these names; no event if there are none.
    pub fn one_of<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self {
            names: Some(names.into_iter().map(Into::into).collect()),
            ..Self::default()
        }
    }

    /// Matches only events whose data contains `pattern`; see [`contains`].
    #[must_use]
    pub fn data(mut self, pattern: Value) -> Self {
        self.data = Some(pattern);
        self
    }

    /// Matches only events for which `condition` holds.
    #[must_use]
    pub fn when(mut self, condition: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        self.condition = Some(match self.condition.take() {
            Some(first) => Arc::new(move |event| first(event) && condition(event)),
            None => Arc::new(condition),
        });
        self
    }

    /// Whether `event` matches.
    pub fn matches(&self, event: &Event) -> bool {
        let names = self.names.as_ref();
        names.is_none_or(|names| names.contains(&event.name))
            && self.data.as_ref().is_none_or(|pattern| match pattern {
                Value::Object(members) => contains_members(&event.data, members),
                Value::Null => true,
                _ => false,
            })
            && self.condition.as_ref().is_none_or(|condition| condition(event))
    }
}

impl From<&str> for Matcher {
    fn from(name: &str) -> Self {
        Self::event(name)
    }
}

impl From<&Self> for Matcher {
    fn from(matcher: &Self) -> Self {
        matcher.clone()
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names.as_deref() {
            None => f.write_str("any event")?,
            Some([]) => f.write_str("no event")?,
            Some(names) => f.write_str(&names.join(" or "))?,
        }
        if let Some(data) = &self.data {
            write!(f, " with {data}")?;
        }
        if self.condition.is_some() {
            f.write_str(" that meets a condition")?;
        }
        Ok(())
    }
}

/// Whether `value` contains `pattern`.
///
/// `null` is contained in anything, an object in an object that has all its members, an array in
/// one of the same length, and anything else only in an equal value.
pub fn contains(value: &Value, pattern: &Value) -> bool {
    match (value, pattern) {
        (_, Value::Null) => true,
        (Value::Object(value), Value::Object(pattern)) => contains_members(value, pattern),
        (Value::Array(value), Value::Array(pattern)) => {
            value.len() == pattern.len() && value.iter().zip(pattern).all(|(v, p)| contains(v, p))
        }
        (Value::Number(value), Value::Number(pattern)) => same_number(value, pattern),
        _ => value == pattern,
    }
}

fn contains_members(
    value: &serde_json::Map<String, Value>,
    pattern: &serde_json::Map<String, Value>,
) -> bool {
    pattern
        .iter()
        .all(|(name, pattern)| value.get(name).is_some_and(|value| contains(value, pattern)))
}

/// 1 and 1.0 are the same number in JSON.
fn same_number(a: &Number, b: &Number) -> bool {
    a == b || (a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(name: &str, data: Value) -> Event {
        let Value::Object(data) = data else {
            panic!("data is an object")
        };
        Event::new(name).with_data(data)
    }

    #[test]
    fn all_members_of_the_pattern_must_be_there_at_every_level() {
        let value = json!({"a": {"b": 1, "c": [1, {"d": 2, "e": 3}]}, "f": "x"});
        assert!(contains(&value, &json!({"a": {"c": [1, {"d": 2}]}})));
        assert!(!contains(&value, &json!({"a": {"c": [1, {"d": 3}]}})));
        assert!(!contains(&value, &json!({"a": {"c": [1]}})));
        assert!(
            !contains(&value, &json!({"g": null})),
            "a null member must exist"
        );
        assert!(contains(&value, &json!({"a": null})));
        assert!(!contains(&value, &json!({"f": 1})));
    }

    #[test]
    fn numbers_are_compared_by_value() {
        assert!(contains(&json!(1), &json!(1.0)));
        assert!(
            !contains(&json!(u64::MAX), &json!(u64::MAX - 1)),
            "no conversion to floats"
        );
        assert!(!contains(&json!(-1), &json!(u64::MAX)));
    }

    #[test]
    fn a_matcher_needs_name_data_and_condition_to_hold() {
        let matcher = Matcher::one_of(["STOP", "RESUME"])
            .data(json!({"a": 1}))
            .when(|event| event.data.len() == 2)
            .when(|event| event.text("b") == Some("x"));
        assert!(matcher.matches(&event("STOP", json!({"a": 1, "b": "x"}))));
        assert!(matcher.matches(&event("RESUME", json!({"a": 1, "b": "x"}))));
        assert!(!matcher.matches(&event("RESET", json!({"a": 1, "b": "x"}))));
        assert!(!matcher.matches(&event("STOP", json!({"a": 2, "b": "x"}))));
        assert!(!matcher.matches(&event("STOP", json!({"a": 1, "b": "y"}))));
        assert!(!matcher.matches(&event("STOP", json!({"a": 1, "b": "x", "c": 1}))));
        assert!(Matcher::any().matches(&event("STOP", json!({}))));
    }
}
