//! The options of a block node as a value, for the command line, `blockdev-add`, `blockdev-reopen`
//! and the tools.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::sync::{Mutex, PoisonError};

use machine::args::Blockdev;
use qmp::types::{BlockSetWriteThreshold, BlockdevDel, QomSet};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{Cmd, Machine, Monitor, Target};
use crate::author::action::Action;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Failure};
use crate::author::image::Image;

/// The options of a block node, as `blockdev-add` takes them (`BlockdevOptions` in QEMU's
/// `qapi/block-core.json`).
///
/// ```
/// use iotests_core::author::Node;
/// let file = Node::new("file").set("filename", "/disk,with:odd name");
/// let node = Node::new("qcow2").node_name("top").read_only(true).file(file).no_backing();
/// assert_eq!(
///     serde_json::to_value(node.set("file.locking", "off")).unwrap(),
///     serde_json::json!({
///         "driver": "qcow2", "node-name": "top", "read-only": true, "backing": null,
///         "file": {"driver": "file", "filename": "/disk,with:odd name", "locking": "off"},
///     }),
/// );
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    options: Value,
    /// What is wrong with it; reported where it is used.
    wrong: Option<String>,
}

/// A child of a node: its own options, or the name of an existing node.
#[derive(Clone, Debug, PartialEq)]
pub struct Child(Node);

impl Node {
    /// A node with this driver: `qcow2`, `file`, `throttle` …
    #[must_use]
    pub fn new(driver: &str) -> Self {
        Node::from(json!({ "driver": driver }))
    }

    /// A filter that limits the requests to a node by a throttle group.
    #[must_use]
    pub fn throttle(group: &str, file: impl Into<Child>) -> Self {
        Node::new("throttle").set("throttle-group", group).file(file)
    }

    /// A quorum of these children, `threshold` of which must agree.
    #[must_use]
    pub fn quorum(threshold: u64, children: impl IntoIterator<Item = impl Into<Child>>) -> Self {
        let node = Node::new("quorum").set("vote-threshold", threshold);
        let children = children.into_iter().enumerate();
        children.fold(node.set("children", json!([])), |mut node, (at, child)| {
            if let Some(Value::Array(children)) = node.options.get_mut("children") {
                children.push(Value::Null);
            }
            node.child(&format!("children.{at}"), child)
        })
    }

    /// Sets its name; by default QEMU generates one.
    #[must_use]
    pub fn node_name(self, name: &str) -> Self {
        self.set("node-name", name)
    }

    /// Sets whether it is read-only.
    #[must_use]
    pub fn read_only(self, on: bool) -> Self {
        self.set("read-only", on)
    }

    /// Sets the child `file`.
    #[must_use]
    pub fn file(self, child: impl Into<Child>) -> Self {
        self.child("file", child)
    }

    /// Sets the child `backing`.
    #[must_use]
    pub fn backing(self, child: impl Into<Child>) -> Self {
        self.child("backing", child)
    }

    /// Opens it without a backing node, whatever the image records.
    #[must_use]
    pub fn no_backing(self) -> Self {
        self.set("backing", Value::Null)
    }

    /// Sets any child.
    #[must_use]
    pub fn child(mut self, path: &str, child: impl Into<Child>) -> Self {
        let Child(child) = child.into();
        self.wrong = self.wrong.or(child.wrong);
        self.set(path, child.options)
    }

    /// Sets any option. A dotted path reaches into the options of children: `file.locking`,
    /// `children.0.read-only`.
    #[must_use]
    pub fn set(mut self, path: &str, value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => match place(&mut self.options, path) {
                Some(place) => *place = value,
                None => self.complain(format!("there are no options at \"{path}\" to set")),
            },
            Err(error) => self.complain(format!("the option {path} is no JSON: {error}")),
        }
        self
    }

    /// Removes an option.
    #[must_use]
    pub fn without(mut self, path: &str) -> Self {
        let (parent, name) = match path.rsplit_once('.') {
            Some((parent, name)) => (place(&mut self.options, parent), name),
            None => (Some(&mut self.options), path),
        };
        if let Some(Value::Object(options)) = parent {
            options.shift_remove(name);
        }
        self
    }

    fn complain(&mut self, text: String) {
        self.wrong.get_or_insert(text);
    }

    /// The value of an option; `None` if it is not set.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.options.pointer(&format!("/{}", path.replace('.', "/")))
    }

    /// Its name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.get("node-name").and_then(Value::as_str)
    }

    /// As the value of a tool's `--image-opts`.
    ///
    /// # Errors
    /// If it is not a valid node, or sets a child to null, which only [`Node::filename`] can
    /// express.
    #[track_caller]
    pub fn image_opts(&self) -> CaseResult<String> {
        if holds_null(&self.options) {
            let why = "options of a tool cannot set a child to nothing: use its file name";
            return Err(Failure::new(format!("{why}: {self}")));
        }
        Ok(self.to_blockdev()?.to_options().to_string())
    }

    /// As a `json:` file name.
    #[must_use]
    pub fn filename(&self) -> String {
        format!("json:{}", self.options)
    }

    #[track_caller]
    pub(crate) fn to_blockdev(&self) -> CaseResult<Blockdev> {
        match (&self.wrong, Blockdev::try_from(self.options.clone())) {
            (None, Ok(node)) => Ok(node),
            (Some(wrong), _) => Err(Failure::new(format!("{wrong}: {self}"))),
            (None, Err(other)) => Err(Failure::new(format!("not a block node: {other}"))),
        }
    }

    /// As the values of one or more `-blockdev` options.
    #[track_caller]
    pub(crate) fn to_blockdevs(&self) -> CaseResult<Vec<Blockdev>> {
        self.parts().iter().map(Node::to_blockdev).collect()
    }

    /// The nodes to create one after another, itself last. A backing node is split off if QEMU
    /// would confuse its options with the file name recorded in the overlay, which it does unless
    /// the options have a file name themselves.
    fn parts(&self) -> Vec<Node> {
        let below = self.get("backing").filter(|below| below.is_object());
        let Some(below) = below.cloned().map(Node::from) else {
            return vec![self.clone()];
        };
        let mut parts = below.parts();
        // Itself, without the nodes that were split off.
        let below = parts.pop().unwrap_or(below);
        let has_file_name = below.get("file.filename").is_some();
        let node = match below.name().filter(|_| !has_file_name).map(str::to_owned) {
            Some(name) => {
                parts.push(below);
                self.clone().backing(name.as_str())
            }
            None => self.clone().backing(below),
        };
        parts.push(node);
        parts
    }

    /// All named nodes in it, itself first.
    fn named(&self) -> Vec<Node> {
        let mut out = Vec::new();
        let mut left = vec![&self.options];
        while let Some(value) = left.pop() {
            match value {
                Value::Object(options) => {
                    if options.contains_key("node-name") {
                        out.push(Node::from(value.clone()));
                    }
                    left.extend(options.values().rev());
                }
                Value::Array(items) => left.extend(items.iter().rev()),
                _ => {}
            }
        }
        out
    }
}

/// Resolves a dotted path, adding missing members.
fn place<'v>(mut value: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    for name in path.split('.') {
        value = match value {
            Value::Object(options) => options.entry(name).or_insert(Value::Null),
            Value::Array(items) => items.get_mut(name.parse::<usize>().ok()?)?,
            Value::Null => {
                *value = Value::Object(Map::new());
                value.as_object_mut()?.entry(name).or_insert(Value::Null)
            }
            _ => return None,
        };
    }
    Some(value)
}

fn holds_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(options) => options.values().any(holds_null),
        Value::Array(items) => items.iter().any(holds_null),
        _ => false,
    }
}

impl From<Value> for Node {
    /// Uses options that are already JSON.
    fn from(options: Value) -> Self {
        let wrong = (!options.is_object()).then(|| "a block node has options".to_owned());
        Node { options, wrong }
    }
}

impl From<&Node> for Node {
    fn from(node: &Node) -> Self {
        node.clone()
    }
}

impl From<&Image> for Node {
    /// The image with its whole backing chain.
    fn from(image: &Image) -> Self {
        image.node()
    }
}

impl<N: Into<Node>> From<N> for Child {
    fn from(node: N) -> Self {
        Child(node.into())
    }
}

impl From<&str> for Child {
    /// A reference to the node with this name.
    fn from(name: &str) -> Self {
        Child(Node {
            options: name.into(),
            wrong: None,
        })
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.wrong {
            None => self.options.serialize(serializer),
            Some(wrong) => Err(S::Error::custom(format!("{wrong}: {self}"))),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

/// The options with which a machine's nodes were created, by name.
#[derive(Default)]
pub(super) struct Made(Mutex<BTreeMap<String, Node>>);

impl Made {
    pub(super) fn note(&self, node: &Node) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for node in node.parts().iter().flat_map(Node::named) {
            if let Some(name) = node.name() {
                made.insert(name.to_owned(), node.clone());
            }
        }
    }

    fn find(&self, name: &str) -> Option<Node> {
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(name).cloned()
    }
}

impl Machine {
    /// Adds a node. A named backing node without a file name is first added as a separate node, as
    /// at launch: QEMU would otherwise use the file name recorded in the overlay. The backing node
    /// stays when the node is removed.
    #[track_caller]
    pub fn add_node(&self, node: impl Into<Node>) -> Change<'_> {
        let node = node.into();
        let mut below = node.parts();
        let top = below.pop().unwrap_or_else(|| node.clone());
        Change {
            machine: self,
            below,
            call: self.cmd("blockdev-add", &top),
            nodes: vec![node],
        }
    }

    /// Reopens a node with changed options: `change` gets the options with which it was created or
    /// last reopened.
    #[track_caller]
    pub fn reopen(&self, node: impl Into<Target>, change: impl FnOnce(Node) -> Node) -> Change<'_> {
        let name = node.into().to_string();
        let node = match self.made.find(&name) {
            Some(node) => change(node),
            None => Node {
                options: name.into(),
                wrong: Some("the case did not make this node".to_owned()),
            },
        };
        self.reopen_all([node])
    }

    /// Reopens nodes with exactly these options, all of them or none.
    #[track_caller]
    pub fn reopen_all(&self, nodes: impl IntoIterator<Item = impl Into<Node>>) -> Change<'_> {
        let nodes: Vec<Node> = nodes.into_iter().map(Into::into).collect();
        Change {
            machine: self,
            below: Vec::new(),
            call: self.cmd("blockdev-reopen", Options { options: &nodes }),
            nodes,
        }
    }

    /// Removes a node.
    #[track_caller]
    pub fn remove_node(&self, node: impl Into<Target>) -> Cmd {
        let name = node.into().to_string();
        self.monitor.send(BlockdevDel::new(name))
    }
}

#[derive(Serialize)]
struct Options<'n> {
    options: &'n [Node],
}

/// A command that adds or reopens nodes, all of them or none. Awaiting it sends it; an error fails
/// the case.
#[must_use = "a command is sent when it is awaited"]
pub struct Change<'m> {
    machine: &'m Machine,
    /// The separate nodes to add first.
    below: Vec<Node>,
    call: Cmd,
    nodes: Vec<Node>,
}

impl Change<'_> {
    /// The command must fail with this text.
    pub fn expect_error(self, text: impl Into<ErrorText>) -> Action<'static, ()> {
        let (place, text) = (self.call.place(), text.into());
        let (monitor, below, call) = (self.call.monitor().clone(), self.below, self.call);
        Action::at(place, "a change of block nodes to be refused", async move {
            for (at, node) in below.iter().enumerate() {
                let add = monitor.cmd("blockdev-add", node);
                if let Err(refused) = add.outcome().await? {
                    remove(&monitor, &below[..at]).await?;
                    return text.check("blockdev-add", &refused.desc);
                }
            }
            call.expect_error(text).await?;
            remove(&monitor, &below).await
        })
    }

    pub(crate) fn monitor(&self) -> &Monitor {
        self.call.monitor()
    }

    pub(crate) fn place(&self) -> &'static Location<'static> {
        self.call.place()
    }
}

/// Adds these nodes one after another, then sends the call.
async fn add(monitor: &Monitor, below: &[Node], call: Cmd) -> CaseResult {
    for (at, node) in below.iter().enumerate() {
        if let Err(refused) = monitor.cmd("blockdev-add", node).await {
            remove(monitor, &below[..at]).await?;
            return Err(refused);
        }
    }
    if let Err(refused) = call.await {
        remove(monitor, below).await?;
        return Err(refused);
    }
    Ok(())
}

/// Removes the added nodes, the last one first.
async fn remove(monitor: &Monitor, added: &[Node]) -> CaseResult {
    for name in added.iter().rev().filter_map(Node::name) {
        monitor.send(BlockdevDel::new(name)).await?;
    }
    Ok(())
}

impl<'m> IntoFuture for Change<'m> {
    type Output = CaseResult;
    type IntoFuture = Action<'m, ()>;

    fn into_future(self) -> Self::IntoFuture {
        let place = self.call.place();
        Action::at(place, "a change of block nodes", async move {
            add(&self.machine.monitor, &self.below, self.call).await?;
            self.nodes.iter().for_each(|node| self.machine.made.note(node));
            Ok(())
        })
    }
}

impl Machine {
    /// Requests an event for the first write to a node at or beyond this offset
    /// (`BLOCK_WRITE_THRESHOLD`).
    #[track_caller]
    pub fn write_threshold(&self, node: impl Into<Target>, bytes: u64) -> Cmd {
        let node = node.into().to_string();
        self.monitor.send(BlockSetWriteThreshold::new(node, bytes))
    }

    /// Changes the limits of a throttle group (`ThrottleLimits` in QEMU's `qapi/block-core.json`).
    #[track_caller]
    pub fn set_throttle_limits(&self, group: &str, limits: Value) -> Cmd {
        let path = format!("/objects/{group}");
        self.monitor.send(QomSet::new(path, "limits", limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(node: &Node) -> Value {
        serde_json::to_value(node).unwrap()
    }

    #[test]
    fn paths_lead_into_children_and_lists() {
        let node = Node::from(json!({"driver": "quorum", "children": [{"driver": "file"}]}));
        let node = node.set("children.0.locking", "off").set("a.b.c", 1);
        assert_eq!(
            json(&node),
            json!({
                "driver": "quorum", "children": [{"driver": "file", "locking": "off"}],
                "a": {"b": {"c": 1}},
            })
        );
        assert_eq!(node.get("children.0.driver"), Some(&json!("file")));
        let node = node.without("children.0.locking").without("a").without("x.y");
        assert_eq!(node.get("children"), Some(&json!([{"driver": "file"}])));
        assert_eq!(node.get("a"), None);
    }

    #[test]
    fn a_backing_node_without_a_file_name_is_one_of_its_own() {
        let file = |name: &str| Node::new("file").set("filename", name);
        let layer = |name: &str| Node::new("qcow2").node_name(name).file(file(name));
        let chain = layer("top").backing(layer("base"));
        assert_eq!(chain.parts().len(), 1);
        let remote = Node::new("raw").node_name("remote").file(Node::new("nbd"));
        let chain = layer("top").backing(layer("mid").backing(remote.clone()));
        let parts: Vec<Value> = chain.parts().iter().map(json).collect();
        let expected = layer("top").backing(layer("mid").backing("remote"));
        assert_eq!(parts, [json(&remote), json(&expected)]);
        assert_eq!(layer("top").no_backing().parts().len(), 1);
    }

    #[test]
    fn what_is_no_node_is_reported_where_it_is_used() {
        let wrong = Node::from(json!(7)).to_blockdev().unwrap_err();
        assert_eq!(wrong.message(), "a block node has options: 7");
        // A child that is only a reference has no options here.
        let node = Node::new("qcow2").file("file0").set("file.locking", "off");
        let wrong = node.to_blockdev().unwrap_err();
        assert!(wrong.message().contains("\"file.locking\""), "{wrong}");
        assert!(serde_json::to_value(Node::new("raw").file(node)).is_err());
        assert!(Node::new("raw").set("children.7", 1).to_blockdev().is_ok());
        assert!(Node::from(json!({"x": []})).set("x.1", 1).to_blockdev().is_err());
    }

    #[test]
    fn a_node_serves_as_options_of_a_tool() {
        let file = Node::new("file").set("filename", "/a,b");
        let node = Node::new("qcow2").file(file).read_only(true);
        assert_eq!(
            node.image_opts().unwrap(),
            "driver=qcow2,file.driver=file,file.filename=/a,,b,read-only=on"
        );
        let node = node.no_backing();
        assert!(node.image_opts().is_err());
        assert!(node.filename().ends_with(r#""read-only":true,"backing":null}"#));
    }

    #[test]
    fn every_node_with_a_name_is_remembered() {
        let base = Node::new("raw").node_name("base");
        let top = Node::new("qcow2").node_name("top").backing(base.clone());
        let made = Made::default();
        made.note(&Node::new("throttle").node_name("filter").file(&top));
        assert_eq!(made.find("base"), Some(base));
        assert_eq!(made.find("top"), Some(top));
        assert_eq!(made.find("other"), None);
        // A node that was split off is reopened by its name.
        let remote = Node::new("raw").node_name("remote").file(Node::new("nbd"));
        let over = Node::new("qcow2").node_name("over");
        made.note(&over.clone().backing(remote.clone()));
        assert_eq!(made.find("over"), Some(over.backing("remote")));
        assert_eq!(made.find("remote"), Some(remote));
    }
}
