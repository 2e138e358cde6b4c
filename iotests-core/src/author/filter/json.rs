//! The filters for JSON, as pure functions.

use std::borrow::Cow;

use serde_json::Value;

/// Applies a text filter to every string in the value. Keys are not changed: they are QMP's
/// vocabulary.
#[must_use]
pub fn strings(mut value: Value, filter: &dyn for<'a> Fn(&'a str) -> Cow<'a, str>) -> Value {
    each(&mut value, &mut |value| {
        if let Value::String(text) = value
            && let Cow::Owned(changed) = filter(text)
        {
            *text = changed;
        } else if let Value::String(text) = value
            && let Cow::Borrowed(part) = filter(text)
            && part.len() != text.len()
        {
            *text = part.to_owned();
        }
    });
    value
}

/// Hides the timestamps of QMP events anywhere in the value.
#[must_use]
pub fn event_times(mut value: Value) -> Value {
    each(&mut value, &mut |value| {
        let Value::Object(object) = value else { return };
        if !object.contains_key("event") {
            return;
        }
        if let Some(Value::Object(time)) = object.get_mut("timestamp") {
            for (key, hidden) in [("seconds", "SECS"), ("microseconds", "USECS")] {
                if let Some(value) = time.get_mut(key) {
                    *value = hidden.into();
                }
            }
        }
    });
    value
}

/// Hides ports: the value of each `port` key.
#[must_use]
pub fn ports(mut value: Value) -> Value {
    each(&mut value, &mut |value| {
        if let Value::Object(object) = value
            && let Some(port) = object.get_mut("port")
            && (port.is_number() || port.as_str().is_some_and(|text| text.parse::<u16>().is_ok()))
        {
            *port = "PORT".into();
        }
    });
    value
}

/// Visits a value and everything inside it, without recursion, because a peer controls its depth.
fn each(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        visit(value);
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(entries) => left.extend(entries.values_mut()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::filter::text;
    use serde_json::json;

    #[test]
    fn strings_are_filtered_and_keys_are_not() {
        let value = json!({"#block1": ["#block2", {"n": "a#block3"}], "x": 7});
        assert_eq!(
            strings(value, &text::generated_node_ids),
            json!({"#block1": ["NODE_NAME", {"n": "aNODE_NAME"}], "x": 7})
        );
    }

    #[test]
    fn a_filter_that_only_cuts_is_applied_too() {
        assert_eq!(
            strings(json!("[I 0.0] OPENED\nx"), &text::qtest),
            json!("x")
        );
    }

    #[test]
    fn only_events_lose_their_timestamp() {
        let event = json!({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}});
        let other = json!({"timestamp": {"seconds": 1, "microseconds": 2}});
        assert_eq!(
            event_times(event)["timestamp"],
            json!({"seconds": "SECS", "microseconds": "USECS"})
        );
        assert_eq!(event_times(other.clone()), other);
    }

    #[test]
    fn ports_are_hidden_by_key() {
        assert_eq!(
            ports(json!([{"port": "10809"}, {"port": 3}, {"port": "http"}])),
            json!([{"port": "PORT"}, {"port": "PORT"}, {"port": "http"}])
        );
    }
}
