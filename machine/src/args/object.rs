//! User-creatable objects (`-object`, `--object`, and the arguments of `object-add`).

use super::object;
use qmp::types::ObjectOptions;
use serde_json::{Map, Value};
use std::fmt;

/// One object, as JSON (accepted by `-object` since 6.0).
///
/// Secrets are made by the builder's `secret`, which keeps their value off the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    properties: Map<String, Value>,
}

impl Object {
    /// An object of this QOM type.
    #[must_use]
    pub fn new(qom_type: impl Into<String>, id: impl Into<String>) -> Self {
        let mut properties = Map::new();
        properties.insert("qom-type".to_owned(), Value::String(qom_type.into()));
        properties.insert("id".to_owned(), Value::String(id.into()));
        Self { properties }
    }

    /// An I/O thread.
    #[must_use]
    pub fn iothread(id: impl Into<String>) -> Self {
        Self::new("iothread", id)
    }

    /// A throttle group; set limits with `x-bps-total` and similar properties.
    #[must_use]
    pub fn throttle_group(id: impl Into<String>) -> Self {
        Self::new("throttle-group", id)
    }

    /// Sets one property.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.properties.insert(key.into(), value.into());
        self
    }

    /// The arguments of `object-add`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Object(self.properties.clone())
    }
}

/// What `object-add` takes, for the command line.
impl From<&ObjectOptions> for Object {
    fn from(options: &ObjectOptions) -> Self {
        Self {
            properties: object(options),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_value().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_json_with_its_types_kept() {
        let group = Object::throttle_group("tg").set("x-iops-total", 8);
        assert_eq!(
            group.to_string(),
            r#"{"qom-type":"throttle-group","id":"tg","x-iops-total":8}"#
        );
    }
}
