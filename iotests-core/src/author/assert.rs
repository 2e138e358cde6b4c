//! Assertions on JSON, with messages that say which value was found where and what was expected.

use std::fmt;

use serde_json::Value;

use crate::author::failure::{CaseResult, Difference, Failure};

/// What a value may be.
///
/// An array of alternatives means any of them; a [`Value`] means exactly this value, so
/// `json!([])` is the empty list.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// Exactly this.
    Exactly(Value),
    /// Any of these.
    AnyOf(Vec<Value>),
}

impl Expected {
    fn allows(&self, found: &Value) -> bool {
        match self {
            Expected::Exactly(value) => same(value, found),
            Expected::AnyOf(values) => values.iter().any(|value| same(value, found)),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Exactly(value) => write!(f, "{value}"),
            Expected::AnyOf(values) => {
                f.write_str("any of ")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

impl<T: Into<Value>> From<T> for Expected {
    fn from(value: T) -> Self {
        Expected::Exactly(value.into())
    }
}

/// Any of these values will do.
#[must_use]
pub fn any_of<T: Into<Value>, const N: usize>(values: [T; N]) -> Expected {
    Expected::AnyOf(values.into_iter().map(Into::into).collect())
}

/// Numbers are compared by value: 1 is 1.0, whatever type a literal in a case has.
fn same(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Number(a), Value::Number(b)) => {
            a == b
                || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a == b && a.fract() == 0.0 && a.abs() < 9e15)
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Assertions on a QMP reply, an event, or any other JSON value.
///
/// A path names object keys and list indices: `inserted/image/backing-image[0]/filename`; for a list
/// it may begin with an index: `[0]/device`. The empty path is the value itself.
pub trait AssertJson {
    /// The value at this path.
    ///
    /// # Errors
    /// Names the part of the path that could not be followed, and what stands there.
    #[track_caller]
    fn at(&self, path: &str) -> CaseResult<&Value>;

    /// The value at this path is as expected.
    ///
    /// # Errors
    /// Says the path, the value found and the expected one.
    #[track_caller]
    fn assert(&self, path: &str, expected: impl Into<Expected>) -> CaseResult;

    /// There is no value at this path.
    ///
    /// # Errors
    /// Says the path and the value found.
    #[track_caller]
    fn assert_absent(&self, path: &str) -> CaseResult;

    /// Everything in `expected` is in the value; the value may hold more keys. A list has exactly the
    /// items that are expected, in this order, each of which may hold more keys.
    ///
    /// # Errors
    /// Shows only the places in which the two differ.
    #[track_caller]
    fn assert_includes(&self, expected: &Value) -> CaseResult;

    /// Some item of this list includes `expected`; that item is returned.
    ///
    /// # Errors
    /// Shows in which places the nearest item differs.
    #[track_caller]
    fn find(&self, expected: &Value) -> CaseResult<&Value>;
}

impl AssertJson for Value {
    #[track_caller]
    fn at(&self, path: &str) -> CaseResult<&Value> {
        match follow(self, path) {
            Ok(value) => Ok(value),
            Err(stop) => Err(Failure::new(stop.to_string())),
        }
    }

    #[track_caller]
    fn assert(&self, path: &str, expected: impl Into<Expected>) -> CaseResult {
        let expected = expected.into();
        let found = match follow(self, path) {
            Ok(found) => found,
            Err(stop) => return Err(Failure::new(format!("{stop}, expected {expected}"))),
        };
        if expected.allows(found) {
            return Ok(());
        }
        let shown = Difference {
            expected: expected.to_string(),
            found: found.to_string(),
            diff: None,
        };
        let path = if path.is_empty() { "the value" } else { path };
        Err(Failure::differs(
            format!("\"{path}\" is {}, expected {expected}", brief(found)),
            shown,
        ))
    }

    #[track_caller]
    fn assert_absent(&self, path: &str) -> CaseResult {
        match follow(self, path) {
            Ok(found) => Err(Failure::new(format!(
                "\"{path}\" is {}, expected nothing there",
                brief(found)
            ))),
            Err(_) => Ok(()),
        }
    }

    #[track_caller]
    fn assert_includes(&self, expected: &Value) -> CaseResult {
        match differences(expected, self).as_slice() {
            [] => Ok(()),
            some => Err(Failure::new(format!("the value differs:{}", lines(some)))),
        }
    }

    #[track_caller]
    fn find(&self, expected: &Value) -> CaseResult<&Value> {
        let Value::Array(items) = self else {
            return Err(Failure::new(format!(
                "expected a list, found {}",
                brief(self)
            )));
        };
        let mut nearest: Option<(usize, Vec<Mismatch>)> = None;
        for (index, item) in items.iter().enumerate() {
            let found = differences(expected, item);
            if found.is_empty() {
                return Ok(item);
            }
            if nearest
                .as_ref()
                .is_none_or(|(_, best)| found.len() < best.len())
            {
                nearest = Some((index, found));
            }
        }
        Err(Failure::new(match nearest {
            None => format!("the list is empty, expected an item like {expected}"),
            Some((index, mismatches)) => format!(
                "none of {} items is like {expected}; the nearest, [{index}], differs:{}",
                items.len(),
                lines(&mismatches)
            ),
        }))
    }
}

/// One place in which a value is not as expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The path to the place.
    pub path: String,
    /// What should be there.
    pub expected: Value,
    /// What is there; `None` for nothing.
    pub found: Option<Value>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch {
            path,
            expected,
            found,
        } = self;
        let path = if path.is_empty() { "the value" } else { path };
        match found {
            Some(found) => write!(f, "\"{path}\" is {}, expected {expected}", brief(found)),
            None => write!(f, "\"{path}\" is missing, expected {expected}"),
        }
    }
}

/// The smallest set of places in which `found` does not include `expected`.
#[must_use]
pub fn differences(expected: &Value, found: &Value) -> Vec<Mismatch> {
    let mut out = Vec::new();
    compare(expected, Some(found), String::new(), &mut out);
    out
}

fn compare(expected: &Value, found: Option<&Value>, path: String, out: &mut Vec<Mismatch>) {
    match (expected, found) {
        (Value::Object(expected), Some(Value::Object(found))) => {
            for (key, value) in expected {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}/{key}")
                };
                compare(value, found.get(key), path, out);
            }
        }
        (Value::Array(expected), Some(Value::Array(found))) if expected.len() == found.len() => {
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                compare(expected, Some(found), format!("{path}[{index}]"), out);
            }
        }
        (expected, Some(found)) if same(expected, found) => {}
        (expected, found) => {
            out.push(Mismatch {
                path,
                expected: expected.clone(),
                found: found.cloned(),
            });
        }
    }
}

fn lines(mismatches: &[Mismatch]) -> String {
    mismatches
        .iter()
        .map(|mismatch| format!("\n  {mismatch}"))
        .collect()
}

/// Where a path could not be followed.
#[derive(Debug)]
struct Stop<'v, 'p> {
    path: &'p str,
    component: &'p str,
    value: &'v Value,
}

impl fmt::Display for Stop<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stop {
            path,
            component,
            value,
        } = self;
        write!(
            f,
            "\"{path}\": nothing at \"{component}\" in {}",
            brief(value)
        )
    }
}

fn follow<'v, 'p>(value: &'v Value, path: &'p str) -> Result<&'v Value, Stop<'v, 'p>> {
    let mut value = value;
    for component in path.split('/').filter(|component| !component.is_empty()) {
        let stop = |value| Stop {
            path,
            component,
            value,
        };
        let (key, mut indices) = match component.find('[') {
            Some(at) => component.split_at(at),
            None => (component, ""),
        };
        if !key.is_empty() {
            value = value
                .as_object()
                .and_then(|object| object.get(key))
                .ok_or_else(|| stop(value))?;
        }
        while let Some(rest) = indices.strip_prefix('[') {
            let (index, rest) = rest.split_once(']').ok_or_else(|| stop(value))?;
            value = index
                .parse::<usize>()
                .ok()
                .and_then(|index| value.as_array()?.get(index))
                .ok_or_else(|| stop(value))?;
            indices = rest;
        }
    }
    Ok(value)
}

/// The value as one line that a person still reads.
fn brief(value: &Value) -> String {
    const MOST: usize = 400;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn reply() -> Value {
        json!([{"device": "drive0", "inserted": {"file": "/t/base", "ro": false, "ids": [3, 4]}}])
    }

    /// H40: the message says which path, what was found and what was expected.
    #[test]
    fn a_wrong_value_is_reported_with_path_found_and_expected() {
        let reply = reply();
        reply.assert("[0]/inserted/file", "/t/base").unwrap();
        let text = reply
            .assert("[0]/inserted/ids[1]", 5)
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("\"[0]/inserted/ids[1]\" is 4, expected 5"),
            "{text}"
        );
    }

    /// H40: a list of expected values means any of them.
    #[test]
    fn any_of_several_values_may_be_expected() {
        let reply = reply();
        reply
            .assert("[0]/device", any_of(["drive1", "drive0"]))
            .unwrap();
        let text = reply
            .assert("[0]/device", any_of(["a", "b"]))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("\"drive0\", expected any of \"a\", \"b\""),
            "{text}"
        );
        reply.assert("[0]/inserted/ids", json!([3, 4])).unwrap();
        json!({"return": []}).assert("return", json!([])).unwrap();
    }

    /// H40: absence, and a path that cannot be followed.
    #[test]
    fn absence_is_asserted_and_a_wrong_path_says_where_it_ends() {
        let reply = reply();
        reply.assert_absent("[0]/inserted/backing").unwrap();
        reply.assert_absent("[1]").unwrap();
        let text = reply.assert_absent("[0]/device").unwrap_err().to_string();
        assert!(
            text.contains("\"[0]/device\" is \"drive0\", expected nothing there"),
            "{text}"
        );
        let text = reply.assert("[0]/missing/x", 1).unwrap_err().to_string();
        assert!(
            text.starts_with("\"[0]/missing/x\": nothing at \"missing\" in {"),
            "{text}"
        );
        for path in ["[2]", "[x]", "[0", "[0]/inserted/ids[2]", "[0]/device/x"] {
            assert!(reply.at(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_subset_is_found_and_the_smallest_difference_is_told() {
        let reply = reply();
        reply[0]
            .assert_includes(&json!({"inserted": {"ro": false}}))
            .unwrap();
        let expected = json!({"device": "drive0", "inserted": {"ro": true, "ids": [3, 5], "x": 1}});
        let text = reply[0].assert_includes(&expected).unwrap_err().to_string();
        assert_eq!(
            text,
            "the value differs:\n  \"inserted/ro\" is false, expected true\n  \
             \"inserted/ids[1]\" is 4, expected 5\n  \"inserted/x\" is missing, expected 1"
        );
        for items in [json!([]), json!([{}, {}])] {
            assert!(reply.assert_includes(&items).is_err(), "{items}");
        }
        reply.assert_includes(&json!([{}])).unwrap();
    }

    #[test]
    fn the_nearest_item_of_a_list_is_shown() {
        let list = json!([{"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 9}, {}]);
        assert_eq!(list.find(&json!({"b": 9})).unwrap(), &list[1]);
        let text = list
            .find(&json!({"a": 1, "b": 2, "c": 4}))
            .unwrap_err()
            .to_string();
        assert!(
            text.ends_with("[0], differs:\n  \"c\" is 3, expected 4"),
            "{text}"
        );
        assert!(json!([]).find(&json!(1)).is_err());
    }

    #[test]
    fn numbers_are_compared_by_value() {
        json!({"n": 1_048_576_u64})
            .assert("n", 1_048_576_i32)
            .unwrap();
        json!({"n": 1.0}).assert("n", 1).unwrap();
        assert!(json!({"n": u64::MAX}).assert("n", u64::MAX - 1).is_err());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-d]", inner), 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_includes_itself_and_differences_can_be_followed(a in value(), b in value()) {
            prop_assert_eq!(differences(&a, &a), vec![]);
            for mismatch in differences(&a, &b) {
                let place = follow(&b, &mismatch.path).ok();
                prop_assert_eq!(place, mismatch.found.as_ref());
                prop_assert_eq!(follow(&a, &mismatch.path).ok(), Some(&mismatch.expected));
            }
        }
    }
}
