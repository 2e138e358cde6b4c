//! `blockdev-reopen`: nodes get other options and other children while they are in use.
//!
//! The upstream test is 245. On a storage daemon as on an emulator; a guest's disk there is an export.

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2], protocols = [FILE], groups = [QUICK], host = Any,
    needs = [Command("blockdev-reopen")],
}

mod backing;
mod files;
mod in_flight;
mod iothreads;
mod jobs;
mod options;
mod refused;

const SIZE: u64 = 48 * CLUSTER;

/// `top` records `base` as its backing image, `other` is by itself. They have data of their own, data
/// that hides other data, and zeroes that do.
struct Images {
    base: Image,
    top: Image,
    other: Image,
}

impl Images {
    async fn create(t: &Test) -> CaseResult<Self> {
        let image = |name: &str| t.image(name).size(SIZE).content(own(name));
        let base = image("base").create().await?;
        let top = image("top").backing(&base).create().await?;
        let other = image("other").create().await?;
        Ok(Images { base, top, other })
    }

    /// Each holds what it held by itself.
    async fn assert_layers(&self) -> CaseResult {
        for image in [&self.base, &self.top, &self.other] {
            image.assert_layer(own(image.name())).await?;
            image.assert_clean().await?;
        }
        Ok(())
    }
}

/// What an image holds by itself. All its data are alike: which image is read matters here, and the
/// fewer the parts, the faster they are read.
fn own(name: &str) -> Content {
    let nothing = Content::nothing();
    match name {
        "base" => nothing.written(0x20, clusters(0..16)),
        "top" => nothing.written(0x60, clusters(12..28)).zeroes(clusters(4..6)),
        _ => nothing.written(0xa0, clusters(24..40)).zeroes(clusters(8..14)),
    }
}

/// What is read from the first of these on a chain of all of them.
fn chain(names: &[&str]) -> Content {
    let layers = names.iter().rev();
    layers.fold(Content::nothing(), |below, name| own(name).over(&below))
}

/// The node of an image with no backing node; that of its file is called like it, with `-file`.
fn alone(image: &Image) -> Node {
    let file = format!("{}-file", image.name());
    image.node().no_backing().set("file.node-name", file)
}

/// The same, with the backing node that the image records.
fn recorded(image: &Image) -> Node {
    alone(image).without("backing")
}

/// The options of a node below this one.
fn part(node: &Node, path: &str) -> Node {
    Node::from(node.get(path).cloned().unwrap_or_default())
}
