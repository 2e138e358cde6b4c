//! Other backing nodes: what is read follows the graph, and no graph becomes a circle.

use std::collections::BTreeMap;

use super::*;

/// Gives these nodes other backing nodes, all at once; what is said if that is refused.
struct Step(
    &'static [(&'static str, Option<&'static str>)],
    Option<&'static str>,
);

struct Walk {
    /// Whether a guest writes to `base`, which then nothing can stand on.
    guest: bool,
    steps: &'static [Step],
}

rows! {
    WALKS: Walk { guest, steps };
    "data" => true, DATA, upstream = "test_io_with_graph_changes";
    "circles" => false, CIRCLES, upstream = "test_graph_cycles";
    "several-at-once" => false, SEVERAL;
}

const CYCLE: Option<&str> = Some("would create a cycle");

const DATA: &[Step] = &[
    Step(&[("base", Some("top"))], None),
    Step(&[("other", Some("top"))], None),
    Step(&[("base", Some("other"))], None),
    Step(&[("other", None)], None),
    Step(&[("top", Some("other"))], None),
    Step(&[("base", Some("top"))], None),
    Step(
        &[("other", Some("top"))],
        Some("Making 'top' a backing child of 'other'"),
    ),
    Step(&[("base", Some("other"))], None),
    Step(&[("other", Some("top"))], CYCLE),
    Step(&[("top", Some("base"))], None),
    Step(&[("top", None)], None),
    Step(&[("base", None)], None),
];

const CIRCLES: &[Step] = &[
    Step(&[("base", Some("top"))], None),
    Step(&[("other", Some("top"))], None),
    Step(
        &[("top", Some("other"))],
        Some("Making 'other' a backing child of 'top'"),
    ),
    Step(&[("other", Some("base"))], None),
    Step(
        &[("top", Some("other"))],
        Some("Making 'other' a backing child of 'top'"),
    ),
    Step(
        &[("top", Some("top"))],
        Some("Making 'top' a backing child of 'top'"),
    ),
    Step(&[("top", Some("base"))], CYCLE),
    Step(&[("base", Some("other"))], CYCLE),
    Step(&[("base", None)], None),
    Step(&[("other", None)], None),
];

const SEVERAL: &[Step] = &[
    Step(&[("base", Some("top")), ("top", Some("other"))], None),
    Step(&[("base", None), ("top", None)], None),
    Step(&[("top", Some("other")), ("base", Some("top"))], None),
    // The chain is turned around, and back.
    Step(
        &[
            ("base", None),
            ("top", Some("base")),
            ("other", Some("top")),
        ],
        None,
    ),
    Step(&[("top", Some("other")), ("other", Some("top"))], CYCLE),
    Step(
        &[
            ("other", None),
            ("top", Some("other")),
            ("base", Some("top")),
        ],
        None,
    ),
    Step(
        &[
            ("base", None),
            ("other", Some("base")),
            ("top", Some("other")),
        ],
        None,
    ),
    // The first two would do without the last one.
    Step(
        &[
            ("top", None),
            ("base", Some("top")),
            ("other", Some("other")),
        ],
        CYCLE,
    ),
    Step(&[("top", None), ("other", None)], None),
];

const NAMES: [&str; 3] = ["base", "top", "other"];

/// What stands on what, and what each of them holds.
struct Model {
    below: BTreeMap<&'static str, Option<&'static str>>,
    own: BTreeMap<&'static str, Content>,
}

impl Model {
    fn chain(&self, name: &'static str) -> Vec<&'static str> {
        let next = |name: &&'static str| self.below[name];
        std::iter::successors(Some(name), next).collect()
    }

    async fn assert(&self, vm: &Machine) -> CaseResult {
        for name in NAMES {
            let chain = self.chain(name);
            vm.assert_chain(&chain.join(" -> ")).await?;
            let layers = chain.iter().rev();
            let content = layers.fold(Content::nothing(), |below, name| {
                self.own[name].over(&below)
            });
            vm.node(name).assert_reads(content).await?;
        }
        Ok(())
    }
}

/// What is read from each node is what the graph says, after each change and each refusal; a guest's
/// writes go to its own node, whatever that stands on.
#[case(upstream = "245::TestBlockdevReopen::{walk}", rows = WALKS)]
async fn are_what_is_read(t: &mut Test, walk: &Walk) -> CaseResult {
    let images = Images::create(t).await?;
    let vm = t.host().blockdev(alone(&images.top)).blockdev(alone(&images.other));
    let base = alone(&images.base);
    let vm = if walk.guest {
        vm.disk(Disk::of(base))
    } else {
        vm.blockdev(base)
    };
    let vm = vm.launch().await?;
    let mut model = Model {
        below: NAMES.into_iter().map(|name| (name, None)).collect(),
        own: NAMES.into_iter().map(|name| (name, own(name))).collect(),
    };
    model.assert(&vm).await?;
    for (number, Step(moves, refused)) in walk.steps.iter().enumerate() {
        t.step(format!("{number}: {moves:?}"));
        if walk.guest {
            let (byte, at) = (
                0xc0 + number as u8,
                clusters(number as u64..number as u64 + 1),
            );
            vm.disk("base").io(&format!("aio_write -P {byte} {} {CLUSTER}", at.start)).await?;
            let base = model.own.entry("base").or_default();
            *base = std::mem::take(base).written(byte, at);
        }
        let nodes = moves.iter().map(|(name, below)| {
            let node = Node::new("qcow2").node_name(name).file(format!("{name}-file").as_str());
            below.map_or(node.clone().no_backing(), |below| node.backing(below))
        });
        let change = vm.reopen_all(nodes);
        match refused {
            Some(says) => change.refused(*says).await?,
            None => {
                change.await?;
                model.below.extend(moves.iter().copied());
            }
        }
        model.assert(&vm).await?;
    }
    vm.shutdown().await?;
    images.base.assert_layer(&model.own["base"]).await?;
    images.top.assert_layer(own("top")).await?;
    images.other.assert_layer(own("other")).await
}

/// The backing node of an image that has one must be named when it is reopened; then it is let go.
#[case(upstream = "245::TestBlockdevReopen::test_missing_backing_options_1")]
async fn must_be_named(t: &mut Test) -> CaseResult {
    let images = Images::create(t).await?;
    let base = alone(&images.base).without("backing");
    let vm = t.host().blockdev(alone(&images.other)).blockdev(&base).launch().await?;
    for _ in 0..2 {
        vm.reopen_all([&base]).await?;
        vm.reopen_all([base.clone().backing("other")]).await?;
        vm.reopen_all([&base]).refused("backing is missing for 'base'").await?;
        let busy = "Node 'other' is busy: node is used as backing hd of 'base'";
        vm.remove_node("other").refused(busy).await?;
        vm.node("base").assert_reads(chain(&["base", "other"])).await?;
        vm.reopen_all([base.clone().no_backing()]).await?;
        vm.node("base").assert_reads(own("base")).await?;
    }
    vm.remove_node("other").await?;
    vm.remove_node("base").await?;
    vm.shutdown().await?;
    images.assert_layers().await
}

/// An image that records a backing image must be reopened with one or explicitly with none, even when
/// it has none any more.
#[case(upstream = "245::TestBlockdevReopen::test_missing_backing_options_2")]
async fn must_be_named_where_one_is_recorded(t: &mut Test) -> CaseResult {
    let images = Images::create(t).await?;
    let top = recorded(&images.top);
    let vm = t.host().blockdev(&top).launch().await?;
    let missing = "backing is missing for 'top'";
    vm.reopen_all([&top]).refused(missing).await?;
    vm.node("top").assert_reads(chain(&["top", "base"])).await?;
    for _ in 0..2 {
        vm.reopen_all([top.clone().no_backing()]).await?;
        vm.reopen_all([&top]).refused(missing).await?;
        vm.node("top").assert_reads(own("top")).await?;
        vm.assert_chain("top").await?;
    }
    vm.remove_node("top").await?;
    vm.shutdown().await?;
    images.top.assert_backing(&images.base).await?;
    images.assert_layers().await
}

/// A backing node is detached, added by itself, attached by its name and removed after its user.
#[case(upstream = "245::TestBlockdevReopen::test_reopen")]
async fn are_detached_and_attached(t: &mut Test) -> CaseResult {
    let images = Images::create(t).await?;
    let top = alone(&images.top).backing(alone(&images.base));
    let vm = t.host().blockdev(&top).launch().await?;
    let before = vm.state().await?;

    vm.reopen_all([top.clone().no_backing()]).await?;
    vm.assert_no_nodes(&["base", "base-file"]).await?;
    vm.node("top").await?.assert_absent("image/backing-image")?;
    vm.node("top").assert_reads(own("top")).await?;

    vm.add_node(alone(&images.base)).await?;
    vm.reopen_all([top.clone().backing("base")]).await?;
    vm.reopen("base", |node| node.read_only(true)).await?;
    vm.assert_unchanged_since(&before).await?;
    vm.node("top").assert_reads(chain(&["top", "base"])).await?;
    // It is another's now, and has its own options.
    vm.reopen_all([&top]).refused("Cannot change the option 'backing.").await?;
    let busy = "Node 'base' is busy: node is used as backing hd of 'top'";
    vm.remove_node("base").refused(busy).await?;
    vm.remove_node("top").await?;
    vm.remove_node("base").await?;
    vm.shutdown().await?;
    images.assert_layers().await
}

/// A backing node that is only named keeps its options, and those below it theirs.
#[case(upstream = "245::TestBlockdevReopen::test_backing_reference")]
async fn keep_their_options(t: &mut Test) -> CaseResult {
    let images = Images::create(t).await?;
    let zeroes = |image| alone(image).set("detect-zeroes", "on");
    let chained = zeroes(&images.top).backing(zeroes(&images.base));
    let other = zeroes(&images.other).backing(chained);
    let vm = t.host().disk(Disk::of(&other)).launch().await?;
    let below = (vm.node("top").await?, vm.node("base").await?);

    let short = Node::new("qcow2").node_name("other").file("other-file");
    vm.reopen_all([short.backing("top")]).await?;

    vm.node("other").await?.assert("detect_zeroes", "off")?;
    below.0.assert("detect_zeroes", "on")?;
    check!(vm.node("top").await? == below.0);
    check!(vm.node("base").await? == below.1);
    vm.disk("other").assert_reads(chain(&["other", "top", "base"])).await?;
    vm.shutdown().await?;
    images.assert_layers().await
}
