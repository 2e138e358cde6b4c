//! What cases do with JSON.

use iotests_core::prelude::*;

/// An object with the members of another one added.
pub(crate) fn with(object: &Value, more: Value) -> Value {
    let mut object = object.clone();
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

/// The number at this path. Nothing there, or something else, is a failure.
#[track_caller]
pub(crate) fn number(value: &Value, path: &str) -> CaseResult<u64> {
    let found = value.at(path)?;
    let number = found.as_u64();
    check!(number.is_some(), "expected a number, found {found}");
    Ok(number.unwrap_or_default())
}

/// The items of the list at this path. Nothing there, or something else, is a failure.
#[track_caller]
pub(crate) fn items<'a>(value: &'a Value, path: &str) -> CaseResult<&'a [Value]> {
    let found = value.at(path)?;
    check!(found.is_array(), "expected a list, found {found}");
    Ok(found.as_array().map_or(&[], Vec::as_slice))
}
