//! The block graph: children, backing chains and nodes.

use std::collections::BTreeMap;

use machine::args;
use serde_json::Value;

use super::{Machine, Target};
use crate::author::action::Action;
use crate::author::failure::{CaseResult, Difference, Failure};

impl Machine {
    /// Asserts that the backing chain of the first of these nodes is exactly this: `"top -> mid ->
    /// base"`, by node name. The error also shows nodes that QEMU inserted.
    #[track_caller]
    pub fn assert_chain(&self, chain: &str) -> Action<'_, ()> {
        let expected: Vec<String> = chain.split("->").map(|name| name.trim().to_owned()).collect();
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
                    return Err(Failure::new(format!(
                        "the block graph has a cycle:\n{graph}"
                    )));
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
            Err(Failure::differs("unexpected backing chain", difference))
        })
    }

    /// Asserts that this path leads to the node `expected`, or to none if it is `None`. A path
    /// consists of child names, starting from a root: `"/backing/file"`.
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
            // All steps but the last must exist, even if no node is expected.
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

    /// Asserts that such a node exists, or that it does not.
    #[track_caller]
    pub fn has_node(&self, name: impl Into<Target>) -> Action<'_, bool> {
        let name = name.into().to_string();
        Action::new(format!("the node {name}"), async move {
            Ok(self.inner()?.node(&name).await?.is_some())
        })
    }
}

/// Asserts that a `json:{…}` file name is equivalent to `reference`, however it is nested.
///
/// # Errors
/// If it is not such a name, or differs.
#[track_caller]
pub fn assert_json_filename(filename: &str, reference: &Value) -> CaseResult {
    let text = filename
        .strip_prefix("json:")
        .ok_or_else(|| Failure::new(format!("\"{filename}\" is no json: file name")))?;
    let found: Value = serde_json::from_str(text)?;
    let flat = |value| -> BTreeMap<_, _> { args::flatten(value).into_iter().collect() };
    if flat(&found) == flat(reference) {
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
    fn json_file_names_are_compared_by_what_they_say() {
        let nested = json!({"driver": "raw", "file": {"driver": "file", "filename": "x"}});
        let dotted = r#"json:{"file.filename": "x", "file.driver": "file", "driver": "raw"}"#;
        assert_json_filename(dotted, &nested).unwrap();
        assert!(assert_json_filename(dotted, &json!({"driver": "raw"})).is_err());
        assert!(assert_json_filename("x", &nested).is_err());
    }
}
