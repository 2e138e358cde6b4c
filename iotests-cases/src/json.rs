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
