//! The block graph: who is whose child, and what a node is.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use super::action::Action;
use super::failure::{CaseResult, Difference, Failure};
use super::machine::{Machine, Target};

impl Machine {
    /// The backing chain below the first of these nodes is exactly this: `"top -> mid -> base"`.
    /// Nodes are named; one that QEMU inserted shows in the error.
    #[track_caller]
    pub fn assert_chain(&self, chain: &str) -> Action<'_, ()> {
        let expected: Vec<String> = chain
            .split("->")
            .map(|name| name.trim().to_owned())
            .collect();
        Action::new("the block graph", async move {
            let graph = self.inner()?.graph().await?;
            let Some(mut node) = graph.node(&expected[0]) else {
                return Err(Failure::new(format!(
                    "there is no node \"{}\":\n{graph}",
                    expected[0]
                )));
            };
            let mut found = vec![node.name.clone()];
            while let Some(below) = graph.child(node.id, "backing") {
                found.push(below.name.clone());
                node = below;
                if found.len() > graph.nodes.len() {
                    return Err(Failure::new(format!("the graph has a circle:\n{graph}")));
                }
            }
            if found == expected {
                return Ok(());
            }
            let difference = Difference {
                expected: expected.join(" -> "),
                found: found.join(" -> "),
                diff: None,
            };
            Err(Failure::differs(
                "the backing chain is another one",
                difference,
            ))
        })
    }

    /// The node that this path leads to is called `expected`; `None` if there is none. A path
    /// follows the names of children from a root: `"/backing/file"`.
    #[track_caller]
    pub fn assert_block_path<'a>(
        &'a self,
        root: impl Into<Target>,
        path: &str,
        expected: impl Into<Option<&'a str>>,
    ) -> Action<'a, ()> {
        let (root, path, expected) = (root.into().to_string(), path.to_owned(), expected.into());
        Action::new("the block graph", async move {
            let graph = self.inner()?.graph().await?;
            if !path.starts_with('/') {
                return Err(Failure::new(format!(
                    "a path begins with a slash, unlike \"{path}\""
                )));
            }
            if graph.node(&root).is_none() {
                return Err(Failure::new(format!(
                    "the root node {root} of {path} is not there:\n{graph}"
                )));
            }
            // All but the last step must lead somewhere, even where nothing is expected.
            let (parent, _) = path.rsplit_once('/').unwrap_or_default();
            if !parent.is_empty() {
                graph.at_path(&root, parent)?;
            }
            let expected_text = expected.unwrap_or("nothing");
            match (graph.at_path(&root, &path), expected) {
                (Ok(node), Some(expected)) if node.name == expected => Ok(()),
                (Err(_), None) => Ok(()),
                (Ok(node), _) => Err(Failure::new(format!(
                    "found node {} under {root}{path}, expected {expected_text}",
                    node.name
                ))),
                (Err(_), Some(_)) => Err(Failure::new(format!(
                    "found nothing under {root}{path}, expected {expected_text}"
                ))),
            }
        })
    }

    /// What `query-named-block-nodes` says of this node.
    #[track_caller]
    pub fn node(&self, name: impl Into<Target>) -> Action<'_, Value> {
        let name = name.into().to_string();
        Action::new(format!("the node {name}"), async move {
            let node = self.inner()?.node(&name).await?;
            node.ok_or_else(|| Failure::new(format!("there is no node {name}")))
        })
    }

    /// There is such a node, or there is none.
    #[track_caller]
    pub fn has_node(&self, name: impl Into<Target>) -> Action<'_, bool> {
        let name = name.into().to_string();
        Action::new(format!("the node {name}"), async move {
            Ok(self.inner()?.node(&name).await?.is_some())
        })
    }
}

/// An object with all nested objects and lists unfolded into dotted keys: `file.0.driver`.
#[must_use]
pub fn flatten(value: &Value) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    unfold(String::new(), value, &mut out);
    out
}

fn unfold(prefix: String, value: &Value, out: &mut BTreeMap<String, Value>) {
    let key = |name: &dyn fmt::Display| {
        if prefix.is_empty() {
            name.to_string()
        } else {
            format!("{prefix}.{name}")
        }
    };
    match value {
        Value::Object(object) => {
            object
                .iter()
                .for_each(|(name, value)| unfold(key(name), value, out));
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| unfold(key(&index), item, out));
        }
        leaf => {
            out.insert(prefix, leaf.clone());
        }
    }
}

/// A QMP object as the value of a command-line option: `driver=qcow2,file.filename=…`.
#[must_use]
pub fn to_opts(value: &Value) -> String {
    let option = |(name, value): (String, Value)| {
        let text = match value {
            Value::String(text) => text.replace(',', ",,"),
            Value::Bool(on) => if on { "on" } else { "off" }.to_owned(),
            other => other.to_string(),
        };
        format!("{name}={text}")
    };
    let mut out = Vec::new();
    // In the order of the object: of `driver` and its options, the driver comes first.
    if let Value::Object(object) = value {
        for (name, value) in object {
            let one: Map<String, Value> = [(name.clone(), value.clone())].into_iter().collect();
            out.extend(flatten(&Value::Object(one)).into_iter().map(option));
        }
    }
    out.join(",")
}

/// A `json:{…}` file name says the same as `reference`, whatever the nesting.
///
/// # Errors
/// When it is no such name, or says something else.
#[track_caller]
pub fn assert_json_filename(filename: &str, reference: &Value) -> CaseResult {
    let text = filename
        .strip_prefix("json:")
        .ok_or_else(|| Failure::new(format!("\"{filename}\" is no json: file name")))?;
    let found: Value = serde_json::from_str(text)?;
    if flatten(&found) == flatten(reference) {
        return Ok(());
    }
    let difference = Difference {
        expected: reference.to_string(),
        found: found.to_string(),
        diff: None,
    };
    Err(Failure::differs(
        "the file name says something else",
        difference,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_flattened_into_dotted_keys_and_options() {
        let node = json!({"driver": "quorum", "children": [{"driver": "file", "filename": "a,b"}], "ro": true});
        assert_eq!(flatten(&node)["children.0.filename"], "a,b");
        assert_eq!(
            to_opts(&node),
            "driver=quorum,children.0.driver=file,children.0.filename=a,,b,ro=on"
        );
    }

    #[test]
    fn json_file_names_are_compared_by_what_they_say() {
        let nested = json!({"driver": "raw", "file": {"driver": "file", "filename": "x"}});
        let dotted = r#"json:{"file.filename": "x", "file.driver": "file", "driver": "raw"}"#;
        assert_json_filename(dotted, &nested).unwrap();
        assert!(assert_json_filename(dotted, &json!({"driver": "raw"})).is_err());
        assert!(assert_json_filename("x", &nested).is_err());
    }
}
