//! The block graph as `x-debug-query-block-graph` returns it.

use crate::machine::Machine;
use qmp::types::{
    BlockDeviceInfo, BlockPermission, QueryNamedBlockNodes, XDbgBlockGraph,
    XDbgBlockGraphEdge as GraphEdge, XDbgBlockGraphNode as GraphNode, XDbgBlockGraphNodeType,
    XDebugQueryBlockGraph,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// All block nodes, backends and jobs, and the edges between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockGraph(XDbgBlockGraph);

impl std::ops::Deref for BlockGraph {
    type Target = XDbgBlockGraph;

    fn deref(&self) -> &XDbgBlockGraph {
        &self.0
    }
}

impl BlockGraph {
    /// The block node with this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&GraphNode> {
        self.0
            .nodes
            .iter()
            .find(|n| n.kind == XDbgBlockGraphNodeType::BlockDriver && n.name == name)
    }

    /// The vertex with this id.
    #[must_use]
    pub fn by_id(&self, id: u64) -> Option<&GraphNode> {
        self.0.nodes.iter().find(|n| n.id == id)
    }

    /// The child of a vertex under this edge name.
    #[must_use]
    pub fn child(&self, parent: u64, edge: &str) -> Option<&GraphNode> {
        let edge = self.0.edges.iter().find(|e| e.parent == parent && e.name == edge)?;
        self.by_id(edge.child)
    }

    /// The edges to the users of a block node.
    pub fn parents<'a>(
        &'a self,
        name: &str,
    ) -> impl Iterator<Item = (&'a GraphEdge, &'a GraphNode)> {
        let id = self.node(name).map(|n| n.id);
        self.0
            .edges
            .iter()
            .filter(move |e| Some(e.child) == id)
            .filter_map(|e| Some((e, self.by_id(e.parent)?)))
    }

    /// Follows edge names such as `backing/file` from a block node.
    ///
    /// # Errors
    /// If the root or a step does not exist; the error names the existing part of the path.
    pub fn at_path(&self, root: &str, path: &str) -> Result<&GraphNode, NoSuchPath> {
        let no_such = |reached: &str, missing: &str| NoSuchPath {
            root: root.to_owned(),
            path: path.to_owned(),
            reached: reached.to_owned(),
            missing: missing.to_owned(),
        };
        let mut at = self.node(root).ok_or_else(|| no_such("", root))?;
        for edge in path.split('/').filter(|e| !e.is_empty()) {
            at = self.child(at.id, edge).ok_or_else(|| no_such(&at.name, edge))?;
        }
        Ok(at)
    }
}

impl Machine {
    /// One block node by name, without its backing chain.
    ///
    /// # Errors
    /// As `query-named-block-nodes`.
    pub async fn node(&self, name: &str) -> Result<Option<BlockDeviceInfo>, qmp::Error> {
        let nodes = self.qmp().call(QueryNamedBlockNodes::new().flat(true));
        let mut nodes = nodes.await?.into_iter();
        Ok(nodes.find(|node| node.node_name.as_deref() == Some(name)))
    }

    /// The block graph.
    ///
    /// # Errors
    /// As the command.
    pub async fn graph(&self) -> Result<BlockGraph, qmp::Error> {
        self.qmp().call(XDebugQueryBlockGraph::new()).await.map(BlockGraph)
    }
}

/// A path that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to follow {path:?} from {root:?}: {}", match reached.as_str() {
    "" => format!("there is no block node {missing:?}"),
    node => format!("{node:?} has no child {missing:?}"),
})]
#[non_exhaustive]
pub struct NoSuchPath {
    /// Where the path began.
    pub root: String,
    /// The path.
    pub path: String,
    /// The last node that exists; empty if not even the root does.
    pub reached: String,
    /// The step that does not exist.
    pub missing: String,
}

impl fmt::Display for BlockGraph {
    /// One line for each edge, then the vertices without any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = |id: u64| match self.by_id(id) {
            Some(n) if n.kind == XDbgBlockGraphNodeType::BlockDriver => n.name.clone(),
            Some(n) => format!("{}:{}", n.kind, n.name),
            None => format!("#{id}"),
        };
        for edge in &self.0.edges {
            writeln!(
                f,
                "{} -{}-> {} (perm {}; shared {})",
                label(edge.parent),
                edge.name,
                label(edge.child),
                names(&edge.perm),
                names(&edge.shared_perm)
            )?;
        }
        let alone = |id| !self.0.edges.iter().any(|e| e.parent == id || e.child == id);
        self.0
            .nodes
            .iter()
            .filter(|n| alone(n.id))
            .try_for_each(|n| writeln!(f, "{}", label(n.id)))
    }
}

fn names(permissions: &[BlockPermission]) -> String {
    let names: Vec<&str> = permissions.iter().map(BlockPermission::as_str).collect();
    names.join("+")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BlockGraph {
        serde_json::from_value(serde_json::json!({
            "nodes": [
                {"id": 1, "type": "block-driver", "name": "top"},
                {"id": 2, "type": "block-driver", "name": "base"},
                {"id": 3, "type": "block-driver", "name": "proto"},
                {"id": 4, "type": "block-job", "name": "top"},
                {"id": 5, "type": "block-driver", "name": "alone"}
            ],
            "edges": [
                {"parent": 1, "child": 2, "name": "backing", "perm": ["consistent-read"], "shared-perm": []},
                {"parent": 2, "child": 3, "name": "file", "perm": [], "shared-perm": []},
                {"parent": 4, "child": 1, "name": "main node", "perm": [], "shared-perm": []}
            ]
        }))
        .unwrap()
    }

    #[test]
    fn a_path_is_followed_edge_by_edge() {
        let graph = sample();
        assert_eq!(graph.at_path("top", "backing/file").unwrap().name, "proto");
        assert_eq!(graph.at_path("top", "/backing").unwrap().name, "base");
        assert_eq!(
            graph.at_path("top", "").unwrap().kind.as_str(),
            "block-driver"
        );
        let error = graph.at_path("top", "backing/data").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"failed to follow "backing/data" from "top": "base" has no child "data""#
        );
        let error = graph.at_path("nope", "file").unwrap_err();
        assert!(error.to_string().ends_with(r#"there is no block node "nope""#));
    }

    #[test]
    fn the_users_of_a_node_include_jobs() {
        let graph = sample();
        let users: Vec<_> =
            graph.parents("top").map(|(e, n)| (e.name.as_str(), n.kind.as_str())).collect();
        assert_eq!(users, [("main node", "block-job")]);
    }

    #[test]
    fn the_graph_prints_edges_and_lonely_nodes() {
        let text = sample().to_string();
        assert!(
            text.contains("top -backing-> base (perm consistent-read; shared )"),
            "{text}"
        );
        assert!(text.contains("block-job:top -main node-> top"), "{text}");
        assert!(text.ends_with("alone\n"), "{text}");
    }
}
