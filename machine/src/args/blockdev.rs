//! Block nodes as JSON, for `-blockdev`, `--blockdev` and `blockdev-add` alike.

use super::object;
use super::path::{PathError, utf8};
use imgtools::image::Options;
use qmp::types::BlockdevOptions;
use serde_json::{Map, Value};
use std::fmt;
use std::path::Path;

/// Options of one block node (`BlockdevOptions`, qapi/block-core.json).
///
/// ```
/// use machine::args::Blockdev;
/// # fn example() -> Result<(), machine::args::PathError> {
/// let file = Blockdev::file("/tmp/a,b.img")?;
/// let top = Blockdev::new("qcow2").node("top").child("file", file);
/// assert_eq!(
///     top.to_string(),
///     r#"{"driver":"qcow2","node-name":"top","file":{"driver":"file","filename":"/tmp/a,b.img"}}"#
/// );
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Blockdev {
    options: Map<String, Value>,
}

impl Blockdev {
    /// A node of this driver (`qcow2`, `file`, `throttle`, …).
    #[must_use]
    pub fn new(driver: impl Into<String>) -> Self {
        let mut options = Map::new();
        options.insert("driver".to_owned(), Value::String(driver.into()));
        Self { options }
    }

    /// A node of the driver `file` for this file, whatever its name.
    ///
    /// # Errors
    /// If the path is not UTF-8.
    pub fn file(path: impl AsRef<Path>) -> Result<Self, PathError> {
        let path = utf8(path.as_ref())?;
        Ok(Self::new("file").set("filename", path))
    }

    /// Sets the node's name.
    #[must_use]
    pub fn node(self, name: impl Into<String>) -> Self {
        self.set("node-name", name.into())
    }

    /// Sets one option of the driver; its type is kept.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }

    /// Defines a child node in place.
    #[must_use]
    pub fn child(self, name: impl Into<String>, child: Blockdev) -> Self {
        self.set(name, Value::Object(child.options))
    }

    /// Refers to an existing node as a child.
    #[must_use]
    pub fn child_ref(self, name: impl Into<String>, node: impl Into<String>) -> Self {
        self.set(name, node.into())
    }

    /// The node's name, if it has one.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        self.options.get("node-name").and_then(Value::as_str)
    }

    /// The options as the arguments of `blockdev-add`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Object(self.options.clone())
    }

    /// The options as a flat key-value list (`file.driver=file,…`), for `-drive` and
    /// `--image-opts`.
    #[must_use]
    pub fn to_options(&self) -> Options {
        flatten(&self.to_value()).into_iter().fold(Options::new(), |o, (k, v)| o.set(&k, v))
    }
}

/// What `blockdev-add` takes, for the command line.
impl From<&BlockdevOptions> for Blockdev {
    fn from(options: &BlockdevOptions) -> Self {
        Self {
            options: object(options),
        }
    }
}

impl From<Blockdev> for Value {
    fn from(node: Blockdev) -> Self {
        Value::Object(node.options)
    }
}

impl TryFrom<Value> for Blockdev {
    type Error = Value;

    /// Takes any JSON object as block node options.
    ///
    /// # Errors
    /// Returns the value if it is not an object.
    fn try_from(value: Value) -> Result<Self, Value> {
        match value {
            Value::Object(options) => Ok(Self { options }),
            other => Err(other),
        }
    }
}

impl fmt::Display for Blockdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line: serde_json escapes control characters, so the argument has none.
        f.write_str(&Value::Object(self.options.clone()).to_string())
    }
}

/// Flattens a JSON object into dotted keys (`{"a":{"b":1},"c":[2]}` gives `a.b=1`, `c.0=2`),
/// with QEMU's spelling of booleans. Members keep their order; `null` becomes an empty value.
#[must_use]
pub fn flatten(value: &Value) -> Vec<(String, String)> {
    fn walk(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
        let key = |name: &str| {
            if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}.{name}")
            }
        };
        match value {
            Value::Object(map) => map.iter().for_each(|(k, v)| walk(&key(k), v, out)),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, v)| walk(&key(&i.to_string()), v, out));
            }
            Value::Bool(on) => out.push((prefix.to_owned(), if *on { "on" } else { "off" }.into())),
            Value::String(text) => out.push((prefix.to_owned(), text.clone())),
            Value::Null => out.push((prefix.to_owned(), String::new())),
            Value::Number(n) => out.push((prefix.to_owned(), n.to_string())),
        }
    }
    let mut out = Vec::new();
    walk("", value, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn flattening_keeps_order_and_spells_booleans_the_qemu_way() {
        let value = json!({"driver": "quorum", "children": [{"driver": "raw"}, "n1"], "blkverify": true, "vote-threshold": 2});
        let flat: Vec<_> = flatten(&value).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            flat,
            [
                "driver=quorum",
                "children.0.driver=raw",
                "children.1=n1",
                "blkverify=on",
                "vote-threshold=2"
            ]
        );
    }

    #[test]
    fn a_nested_file_name_with_commas_is_quoted_once_in_key_value_form() {
        let file = Blockdev::file("a,b").unwrap();
        let node = Blockdev::new("raw").child("file", file);
        assert_eq!(
            node.set("read-only", true).to_options().to_string(),
            "driver=raw,file.driver=file,file.filename=a,,b,read-only=on"
        );
    }

    #[test]
    fn only_an_object_is_a_block_node() {
        assert_eq!(Blockdev::try_from(json!("x")), Err(json!("x")));
        assert_eq!(
            Blockdev::try_from(json!({"driver": "raw"})).unwrap().to_string(),
            r#"{"driver":"raw"}"#
        );
    }
}
