//! The state of a machine's block layer, to check that nothing has changed.

use std::panic::Location;

use qmp::types::{BlockDeviceInfo, QueryNamedBlockNodes};
use serde_json::{Value, json};

use super::action::Action;
use super::assert::AssertJson;
use super::expect::ErrorText;
use super::failure::{CaseResult, Context, Failure};
use super::machine::{Change, Cmd, JobBuilder, Machine, Monitor, Target};

/// Returns all nodes, with the permissions of their users.
const GRAPH: &str = "x-debug-query-block-graph";

/// A snapshot of everything that a machine reports about its nodes, devices, jobs and exports.
#[derive(Debug)]
pub struct State(Vec<(&'static str, Value)>);

impl State {
    const COMMANDS: [&str; 6] = [
        "query-named-block-nodes",
        "query-block",
        "query-jobs",
        "query-block-jobs",
        "query-block-exports",
        GRAPH,
    ];

    async fn of(monitor: &Monitor) -> CaseResult<Self> {
        let mut answers = Vec::new();
        for command in Self::COMMANDS {
            answers.push((command, answer(monitor, command).await?));
        }
        Ok(State(answers))
    }

    async fn assert_same(&self, monitor: &Monitor, of: impl Fn(&str) -> bool) -> CaseResult {
        for (command, before) in self.0.iter().filter(|(command, _)| of(command)) {
            let after = answer(monitor, command).await?;
            after.assert("", before.clone()).context(format!("{command} shows a change"))?;
        }
        Ok(())
    }
}

/// A machine's answer, without values that a file system may change by itself.
async fn answer(monitor: &Monitor, command: &str) -> CaseResult<Value> {
    let mut answer = monitor.ask(command, Value::Null).await?;
    remove_sizes_on_disk(&mut answer);
    Ok(answer)
}

fn remove_sizes_on_disk(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("actual-size");
            members.values_mut().for_each(remove_sizes_on_disk);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_sizes_on_disk),
        _ => {}
    }
}

impl Machine {
    /// Records everything that it reports about its nodes, devices, jobs and exports, to check
    /// later that nothing has changed.
    #[track_caller]
    pub fn state(&self) -> Action<'_, State> {
        let asked = State::of(&self.monitor);
        Action::new(format!("the state of {}", self.name()), asked)
    }

    /// Asserts that it gives the same answers as at `before`: it is alive, and nothing has changed
    /// since.
    #[track_caller]
    pub fn assert_unchanged_since<'a>(&'a self, before: &'a State) -> Action<'a, ()> {
        let same = before.assert_same(&self.monitor, |_| true);
        Action::new(format!("the state of {}", self.name()), same)
    }

    /// Asserts that the same nodes exist with the same users and permissions; their sizes may have
    /// changed.
    #[track_caller]
    pub fn assert_same_graph_as<'a>(&'a self, before: &'a State) -> Action<'a, ()> {
        let same = before.assert_same(&self.monitor, |command| command == GRAPH);
        Action::new(format!("the graph of {}", self.name()), same)
    }

    /// Asserts for each of these nodes whether it is read-only.
    #[track_caller]
    pub fn assert_read_only<'a>(&'a self, nodes: &'a [(&'a str, bool)]) -> Action<'a, ()> {
        Action::new("the state of some nodes", async move {
            let all = self.nodes().await?;
            for (name, read_only) in nodes {
                let node = named(&all, name);
                let node = node.ok_or_else(|| Failure::new(format!("there is no node {name}")))?;
                serde_json::to_value(node)?
                    .assert("ro", *read_only)
                    .context(format!("the node {name}"))?;
            }
            Ok(())
        })
    }

    async fn nodes(&self) -> CaseResult<Vec<BlockDeviceInfo>> {
        let all = QueryNamedBlockNodes::new().flat(true);
        self.monitor.query(all).await
    }

    /// What `query-named-block-nodes` reports about a node, including all the layers below it.
    #[track_caller]
    pub fn node_and_layers(&self, name: impl Into<Target>) -> Action<'_, Value> {
        let name = name.into().to_string();
        Action::new(format!("the node {name}"), async move {
            let flat = json!({"flat": false});
            let nodes = self.monitor.ask("query-named-block-nodes", flat).await?;
            nodes.find(&json!({"node-name": name})).cloned()
        })
    }

    /// Asserts that none of these nodes exists.
    #[track_caller]
    pub fn assert_no_nodes<'a>(&'a self, names: &'a [&'a str]) -> Action<'a, ()> {
        Action::new("the list of nodes", async move {
            let all = self.nodes().await?;
            for name in names {
                if named(&all, name).is_some() {
                    return Err(Failure::new(format!(
                        "there is a node {name}, expected none"
                    )));
                }
            }
            Ok(())
        })
    }
}

fn named<'n>(nodes: &'n [BlockDeviceInfo], name: &str) -> Option<&'n BlockDeviceInfo> {
    let mut nodes = nodes.iter();
    nodes.find(|node| node.node_name.as_deref() == Some(name))
}

impl Cmd {
    /// Sends it; it must fail with this text and the class `GenericError`, and leave the machine's
    /// state unchanged.
    pub fn refused(self, text: impl Into<ErrorText>) -> Action<'static, ()> {
        self.refused_class("GenericError", text)
    }

    /// Sends it; it must fail with this text and this class, and leave the machine's state
    /// unchanged.
    pub fn refused_class(self, class: &str, text: impl Into<ErrorText>) -> Action<'static, ()> {
        let (place, monitor) = (self.place(), self.monitor().clone());
        changes_nothing(place, monitor, self.expect_error_class(class, text))
    }
}

fn changes_nothing(
    place: &'static Location<'static>,
    monitor: Monitor,
    refusal: Action<'static, ()>,
) -> Action<'static, ()> {
    Action::at(place, "a refusal that changes nothing", async move {
        let before = State::of(&monitor).await?;
        refusal.await?;
        before.assert_same(&monitor, |_| true).await
    })
}

impl Change<'_> {
    /// Sends it; it must fail with this text, and leave the machine's state unchanged.
    pub fn refused(self, text: impl Into<ErrorText>) -> Action<'static, ()> {
        let (place, monitor) = (self.place(), self.monitor().clone());
        changes_nothing(place, monitor, self.expect_error(text))
    }
}

impl JobBuilder {
    /// Starts it; the command must fail with this text and the class `GenericError`, and leave the
    /// machine's state unchanged.
    pub fn refused(self, text: impl Into<ErrorText>) -> Action<'static, ()> {
        self.refused_class("GenericError", text)
    }

    /// Starts it; the command must fail with this text and this class, and leave the machine's
    /// state unchanged.
    pub fn refused_class(self, class: &str, text: impl Into<ErrorText>) -> Action<'static, ()> {
        let (class, text) = (class.to_owned(), text.into());
        let what = "a refusal that changes nothing";
        Action::at(self.place(), what, async move {
            let command = self.resolved().await?.into_cmd();
            command.refused_class(&class, text).await
        })
    }
}
