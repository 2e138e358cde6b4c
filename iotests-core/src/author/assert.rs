//! Assertions: what was expected where, and what was found.
//!
//! [`check!`](crate::check) is for values of any type, [`AssertJson`] for places within JSON. The
//! first line of every failure is complete, because reports group failures by that line.

use std::fmt;

use serde_json::Value;

use crate::author::failure::{CaseResult, Difference, Failure};

/// The expected value, or several alternatives.
///
/// An array of alternatives matches any of them; a [`Value`] matches exactly itself, so `json!([])`
/// is the empty list.
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

/// Matches any of these values.
#[must_use]
pub fn any_of<T: Into<Value>, const N: usize>(values: [T; N]) -> Expected {
    Expected::AnyOf(values.into_iter().map(Into::into).collect())
}

/// Compares numbers by value: 1 equals 1.0, whatever type a literal in a case has.
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
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Asserts a fact: `check!(found == expected)`, or any condition, optionally with a message:
/// `check!(l1.is_empty(), "L2 tables behind the end: {l1:?}")`. A failure ends the case.
///
/// The report shows the expression, both values and the line. Put a condition in parentheses if
/// `==` is only a part of it.
///
/// ```
/// use iotests_core::prelude::*;
///
/// fn fact(size: u64) -> CaseResult {
///     check!(size / 512 == 3, "sectors of the disk");
///     Ok(())
/// }
/// let failure = fact(512).unwrap_err();
/// assert_eq!(failure.message(), "sectors of the disk: size / 512 is 1, expected 3");
/// ```
#[macro_export]
macro_rules! check {
    ($($fact:tt)+) => { $crate::check_parts!([] $($fact)+) };
}

/// Finds the comparison in the arguments of [`check!`].
#[doc(hidden)]
#[macro_export]
macro_rules! check_parts {
    ([$($found:tt)+] == $expected:expr $(, $($text:tt)+)?) => {
        match (&($($found)+), &$expected) {
            (found, expected) => if !(*found == *expected) {
                let context = $crate::check_text!($($($text)+)?);
                let what = stringify!($($found)+);
                return Err($crate::author::assert::unequal(context, what, found, expected));
            }
        }
    };
    ([$($fact:tt)+] $(, $($text:tt)+)?) => {
        if !($($fact)+) {
            let context = $crate::check_text!($($($text)+)?);
            return Err($crate::author::assert::untrue(context, stringify!($($fact)+)));
        }
    };
    ([$($before:tt)*] $next:tt $($rest:tt)*) => {
        $crate::check_parts!([$($before)* $next] $($rest)*)
    };
}

/// The message passed to [`check!`], if any.
#[doc(hidden)]
#[macro_export]
macro_rules! check_text {
    () => {
        None::<String>
    };
    ($($text:tt)+) => {
        Some(format!($($text)+))
    };
}

/// The result of [`check!`] for a condition. The message may be the output of a program, and thus
/// empty.
#[doc(hidden)]
#[track_caller]
pub fn untrue(context: Option<String>, what: &str) -> Failure {
    let context = context.as_deref().map_or("", str::trim_end);
    let colon = if context.is_empty() { "" } else { ": " };
    Failure::new(format!("{context}{colon}{what} is false"))
}

/// The result of [`check!`] for two values.
#[doc(hidden)]
#[track_caller]
pub fn unequal<A: fmt::Debug, B: fmt::Debug>(
    context: Option<String>,
    what: &str,
    found: &A,
    expected: &B,
) -> Failure {
    let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
    let context = context.map(|text| text + ": ").unwrap_or_default();
    let headline = format!(
        "{context}{what} is {}, expected {}",
        cut(&found),
        cut(&expected)
    );
    Failure::differs(
        headline,
        Difference {
            expected,
            found,
            diff: None,
        },
    )
}

/// Assertions on a QMP reply, an event, or any other JSON value.
///
/// A path consists of object keys and list indices: `inserted/image/backing-image[0]/filename`; for
/// a list it may begin with an index: `[0]/device`. `[-1]` is the last item. The empty path is the
/// value itself.
pub trait AssertJson {
    /// The value at this path.
    ///
    /// # Errors
    /// Names the part of the path that could not be followed, and the value there.
    #[track_caller]
    fn at(&self, path: &str) -> CaseResult<&Value>;

    /// Asserts that the value at this path is the expected one.
    ///
    /// # Errors
    /// States the path, the value found and the expected one.
    #[track_caller]
    fn assert(&self, path: &str, expected: impl Into<Expected>) -> CaseResult;

    /// Asserts that there is no value at this path.
    ///
    /// # Errors
    /// States the path and the value found.
    #[track_caller]
    fn assert_absent(&self, path: &str) -> CaseResult;

    /// Asserts that the value contains everything in `expected`; it may have more keys. A list must
    /// have exactly the expected items, in this order, each of which may have more keys.
    ///
    /// # Errors
    /// Shows only the places where the two differ.
    #[track_caller]
    fn assert_includes(&self, expected: &Value) -> CaseResult;

    /// Asserts that an item of this list includes `expected`, and returns that item.
    ///
    /// # Errors
    /// Shows the places where the closest item differs.
    #[track_caller]
    fn find(&self, expected: &Value) -> CaseResult<&Value>;
}

impl AssertJson for Value {
    #[track_caller]
    fn at(&self, path: &str) -> CaseResult<&Value> {
        match follow(self, path)? {
            Ok(value) => Ok(value),
            Err(stop) => Err(Failure::new(stop.to_string())),
        }
    }

    #[track_caller]
    fn assert(&self, path: &str, expected: impl Into<Expected>) -> CaseResult {
        let expected = expected.into();
        let found = match follow(self, path)? {
            Ok(found) => found,
            Err(stop) => return Err(Failure::new(format!("{stop}, expected {expected}"))),
        };
        if expected.allows(found) {
            return Ok(());
        }
        if let Expected::Exactly(expected) = &expected {
            return Err(mismatched(&places(expected, found, path, true)));
        }
        let shown = Difference {
            expected: expected.to_string(),
            found: found.to_string(),
            diff: None,
        };
        let path = name(path);
        let headline = format!("{path} is {}, expected {expected}", brief(found));
        Err(Failure::differs(headline, shown))
    }

    #[track_caller]
    fn assert_absent(&self, path: &str) -> CaseResult {
        match follow(self, path)? {
            Ok(found) => {
                let (path, found) = (name(path), brief(found));
                Err(Failure::new(format!(
                    "{path} is {found}, expected nothing there"
                )))
            }
            Err(_) => Ok(()),
        }
    }

    #[track_caller]
    fn assert_includes(&self, expected: &Value) -> CaseResult {
        match differences(expected, self).as_slice() {
            [] => Ok(()),
            some => Err(mismatched(some)),
        }
    }

    #[track_caller]
    fn find(&self, expected: &Value) -> CaseResult<&Value> {
        let Value::Array(items) = self else {
            return Err(Failure::new(format!(
                "the value is {}, expected a list",
                brief(self)
            )));
        };
        let differ = items.iter().map(|item| differences(expected, item));
        let nearest = differ.zip(items).min_by_key(|(differ, _)| differ.len());
        match nearest {
            None => Err(Failure::new(format!(
                "the list is empty, expected an item with {expected}"
            ))),
            Some((differ, item)) if differ.is_empty() => Ok(item),
            Some((differ, item)) => {
                let count = items.len();
                let text = format!("none of {count} items has {expected}; of {}", brief(item));
                Err(mismatched(&differ).context(text))
            }
        }
    }
}

/// A failure with all of these places, the first one in the headline.
#[track_caller]
fn mismatched(all: &[Mismatch]) -> Failure {
    let lines = all.iter().map(Mismatch::to_string);
    Failure::new(lines.collect::<Vec<_>>().join("\n"))
}

/// A place where a value is not as expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The path to the place.
    pub path: String,
    /// The expected value; `None` for nothing.
    pub expected: Option<Value>,
    /// The actual value; `None` for nothing.
    pub found: Option<Value>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            Some(found) => write!(f, "{} is {}, expected ", name(&self.path), brief(found))?,
            None => write!(f, "{} is missing, expected ", name(&self.path))?,
        }
        match &self.expected {
            Some(expected) => f.write_str(&brief(expected)),
            None => f.write_str("nothing there"),
        }
    }
}

/// A path as it appears in messages.
fn name(path: &str) -> String {
    match path {
        "" => "the value".to_owned(),
        path => format!("\"{path}\""),
    }
}

/// The minimal set of places where `found` does not include `expected`.
#[must_use]
pub fn differences(expected: &Value, found: &Value) -> Vec<Mismatch> {
    places(expected, found, "", false)
}

/// The places below `path` where the two differ; additional keys count only if `exact`.
fn places(expected: &Value, found: &Value, path: &str, exact: bool) -> Vec<Mismatch> {
    let mut out = Vec::new();
    compare(
        Some(expected),
        Some(found),
        path.to_owned(),
        exact,
        &mut out,
    );
    out
}

fn compare(
    expected: Option<&Value>,
    found: Option<&Value>,
    path: String,
    exact: bool,
    out: &mut Vec<Mismatch>,
) {
    match (expected, found) {
        (Some(Value::Object(expected)), Some(Value::Object(found))) => {
            let below = |key: &str| match path.as_str() {
                "" => key.to_owned(),
                path => format!("{path}/{key}"),
            };
            for (key, value) in expected {
                compare(Some(value), found.get(key), below(key), exact, out);
            }
            for (key, value) in found {
                if exact && !expected.contains_key(key) {
                    compare(None, Some(value), below(key), exact, out);
                }
            }
        }
        (Some(Value::Array(expected)), Some(Value::Array(found)))
            if expected.len() == found.len() =>
        {
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                compare(
                    Some(expected),
                    Some(found),
                    format!("{path}[{index}]"),
                    exact,
                    out,
                );
            }
        }
        (Some(expected), Some(found)) if same(expected, found) => {}
        (expected, found) => {
            out.push(Mismatch {
                path,
                expected: expected.cloned(),
                found: found.cloned(),
            });
        }
    }
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

/// The value at a path, or where the path ends; an error if the path is invalid.
#[track_caller]
fn follow<'v, 'p>(
    mut value: &'v Value,
    path: &'p str,
) -> CaseResult<Result<&'v Value, Stop<'v, 'p>>> {
    if path.is_empty() {
        return Ok(Ok(value));
    }
    let mut end = None;
    for component in path.split('/') {
        let Some((key, indices)) = steps(component) else {
            return Err(Failure::new(format!(
                "\"{path}\" is not a path: \"{component}\" should be a key, indices such as [0], or both"
            )));
        };
        if end.is_some() {
            continue;
        }
        let below = match key {
            "" => Some(value),
            key => value.as_object().and_then(|object| object.get(key)),
        };
        let item = |list: Option<&'v Value>, index: &i64| item(list?.as_array()?, *index);
        match indices.iter().fold(below, item) {
            Some(below) => value = below,
            None => {
                end = Some(Stop {
                    path,
                    component,
                    value,
                });
            }
        }
    }
    Ok(end.map_or(Ok(value), Err))
}

/// A negative index counts from the end.
fn item(list: &[Value], index: i64) -> Option<&Value> {
    let from_end = || list.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?);
    let index = usize::try_from(index).ok().or_else(from_end)?;
    list.get(index)
}

/// The key and the indices of one path component; `None` if it is invalid.
fn steps(component: &str) -> Option<(&str, Vec<i64>)> {
    let (key, mut rest) = component.split_at(component.find('[').unwrap_or(component.len()));
    let mut indices = Vec::new();
    while !rest.is_empty() {
        let (index, after) = rest.strip_prefix('[')?.split_once(']')?;
        indices.push(index.parse().ok()?);
        rest = after;
    }
    let is_empty = key.is_empty() && indices.is_empty();
    (!is_empty).then_some((key, indices))
}

/// The value as one line, short enough to read.
fn brief(value: &Value) -> String {
    cut(&value.to_string())
}

fn cut(text: &str) -> String {
    const MOST: usize = 400;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
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

    /// H40: the message states the path, the value found and the value expected.
    #[test]
    fn a_wrong_value_is_reported_with_path_found_and_expected() {
        let reply = reply();
        reply.assert("[0]/inserted/file", "/t/base").unwrap();
        let text = reply.assert("[0]/inserted/ids[1]", 5).unwrap_err().to_string();
        assert!(
            text.starts_with("\"[0]/inserted/ids[1]\" is 4, expected 5"),
            "{text}"
        );
    }

    /// H40: a list of expected values means any of them.
    #[test]
    fn any_of_several_values_may_be_expected() {
        let reply = reply();
        reply.assert("[0]/device", any_of(["drive1", "drive0"])).unwrap();
        let text = reply.assert("[0]/device", any_of(["a", "b"])).unwrap_err().to_string();
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
        for path in [
            "[2]",
            "[-2]",
            "[0]/inserted/ids[2]",
            "[0]/device/x",
            "[0][0]",
        ] {
            assert!(reply.at(path).is_err(), "{path}");
            reply.assert_absent(path).unwrap();
        }
    }

    /// H40: the last item, and invalid paths.
    #[test]
    fn indices_count_from_the_end_as_well_and_what_is_no_path_is_refused() {
        let reply = reply();
        reply.assert("[-1]/inserted/ids[-2]", 3).unwrap();
        reply.assert("[-1]/inserted/ids[-1]", 4).unwrap();
        for path in [
            "[0]junk", "a//b", "/a", "a/", "[", "[0", "[x]", "[]", "a[0]b", "a]/[0",
        ] {
            let wrong = [
                reply.at(path).map(drop),
                reply.assert(path, 1),
                reply.assert_absent(path),
            ];
            for wrong in wrong {
                let text = wrong.unwrap_err().to_string();
                let start = format!("\"{path}\" is not a path: ");
                assert!(text.starts_with(&start) || path == "a]/[0", "{text}");
            }
        }
    }

    #[test]
    fn a_whole_value_is_compared_and_only_the_differences_are_shown() {
        let before = json!([{"a": {"b": 1, "c": [2]}, "same": "x".repeat(999)}]);
        let after = json!([{"a": {"c": [3], "d": 4}, "same": "x".repeat(999)}]);
        let text = after.assert("", before).unwrap_err().to_string();
        assert_eq!(
            text,
            "\"[0]/a/b\" is missing, expected 1\n\"[0]/a/c[0]\" is 3, expected 2\n\
             \"[0]/a/d\" is 4, expected nothing there"
        );
        let text = json!({"a": [1]}).assert("a", json!([1, 2])).unwrap_err().to_string();
        assert_eq!(text, "\"a\" is [1], expected [1,2]");
    }

    fn fact(size: u64, names: &[&str]) -> CaseResult {
        check!(size + 1 == 4);
        check!(names == ["a"], "with {size} bytes");
        check!(!names.is_empty());
        check!(size < 1, "the size {size}");
        Ok(())
    }

    #[test]
    fn a_fact_says_what_was_asked_and_both_values_and_its_line() {
        let failure = fact(2, &[]).unwrap_err();
        assert_eq!(failure.message(), "size + 1 is 3, expected 4");
        assert_eq!(failure.place().line, line!() - 11);
        let both = failure.difference().unwrap();
        assert_eq!((both.found.as_str(), both.expected.as_str()), ("3", "4"));
        let failure = fact(3, &["b"]).unwrap_err();
        let text = "with 3 bytes: names is [\"b\"], expected [\"a\"]";
        assert_eq!(failure.message(), text);
        let failure = fact(3, &["a"]).unwrap_err();
        assert_eq!(failure.message(), "the size 3: size < 1 is false");
    }

    fn condition(printed: &str) -> CaseResult {
        check!(printed.contains("done"), "{printed}");
        Ok(())
    }

    #[test]
    fn a_condition_is_shown_also_where_its_text_is_empty() {
        for (printed, expected) in [
            ("", "printed.contains(\"done\") is false"),
            ("not yet\n", "not yet: printed.contains(\"done\") is false"),
        ] {
            assert_eq!(condition(printed).unwrap_err().message(), expected);
        }
        condition("done").unwrap();
    }

    #[test]
    fn a_subset_is_found_and_the_smallest_difference_is_told() {
        let reply = reply();
        reply[0].assert_includes(&json!({"inserted": {"ro": false}})).unwrap();
        let expected = json!({"device": "drive0", "inserted": {"ro": true, "ids": [3, 5], "x": 1}});
        let text = reply[0].assert_includes(&expected).unwrap_err().to_string();
        assert_eq!(
            text,
            "\"inserted/ro\" is false, expected true\n\
             \"inserted/ids[1]\" is 4, expected 5\n\"inserted/x\" is missing, expected 1"
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
        let text = list.find(&json!({"a": 1, "b": 2, "c": 4})).unwrap_err().to_string();
        assert!(
            text.starts_with("none of 3 items has {") && text.ends_with("\"c\" is 3, expected 4"),
            "{text}"
        );
        assert!(json!([]).find(&json!(1)).is_err());
    }

    #[test]
    fn numbers_are_compared_by_value() {
        json!({"n": 1_048_576_u64}).assert("n", 1_048_576_i32).unwrap();
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
                let at = |value| follow(value, &mismatch.path).unwrap().ok().cloned();
                prop_assert_eq!(at(&b), mismatch.found.clone());
                prop_assert_eq!(at(&a), mismatch.expected.clone());
            }
        }
    }
}
