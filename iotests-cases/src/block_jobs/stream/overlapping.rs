//! Several jobs in one chain: those that share layers are refused, others go on together.

use iotests_core::prelude::*;

use super::HELD;
use super::chain::merged;

defaults! { formats = [QCOW2] }

/// `node8 -> … -> node0`, the last of them raw, each with two clusters of its own.
struct Links {
    images: Vec<Image>,
    contents: Vec<Content>,
}

const SIZE: u64 = 2 * MIB;

impl Links {
    async fn create(t: &Test) -> CaseResult<Links> {
        let (mut images, mut contents): (Vec<Image>, Vec<Content>) = (Vec::new(), Vec::new());
        for number in 0..9 {
            let image = t.image(&format!("node{number}")).size(SIZE);
            let image = match images.last() {
                None => image.format(RAW),
                Some(below) => image.backing(below),
            };
            let byte = 0x10 * (number as u8 + 1);
            let places = [
                clusters(number..number + 1),
                clusters(number + 16..number + 18),
            ];
            let content = places.into_iter().fold(Content::nothing(), |content, place| {
                content.numbered(byte, place)
            });
            images.push(image.content(&content).create().await?);
            contents.push(content);
        }
        Ok(Links { images, contents })
    }

    async fn launch(&self, t: &Test) -> CaseResult<Machine> {
        t.host().disk(&self.images[8]).launch().await
    }

    /// What these layers hold together.
    fn merged(&self, top: usize, base: usize) -> Content {
        merged(&self.contents[base..=top])
    }

    /// A command with its arguments, in which `{3}` stands for the file of `node3`.
    fn arguments(&self, id: &str, arguments: &[(&str, &str)]) -> Value {
        let mut out = json!({"job-id": id});
        for (key, value) in arguments {
            let mut value = (*value).to_owned();
            for (number, image) in self.images.iter().enumerate() {
                value = value.replace(&format!("{{{number}}}"), image.filename());
            }
            out[*key] = value.into();
        }
        out
    }

    fn job(&self, vm: &Machine, id: &str, job: Request) -> JobBuilder {
        vm.job(job.0, self.arguments(id, job.1)).id(id)
    }

    /// The chain reads as it did, and is this one.
    async fn assert_chain(&self, vm: &Machine, chain: &[usize]) -> CaseResult {
        vm.assert_no_jobs().await?;
        vm.disk("node8").assert_reads(self.merged(8, 0)).await?;
        let names: Vec<_> = chain.iter().map(|number| format!("node{number}")).collect();
        vm.disk("node8").assert_node(names[0].as_str()).await?;
        vm.assert_chain(&names.join(" -> ")).await
    }

    /// These layers hold by themselves what was moved into them, the others what they did.
    async fn assert_files(&self, moved: &[(usize, usize, usize)]) -> CaseResult {
        for (number, image) in self.images.iter().enumerate() {
            let here = moved.iter().find(|(into, ..)| *into == number);
            let own = match here {
                Some((_, top, base)) => self.merged(*top, *base),
                None => self.contents[number].clone(),
            };
            image.assert_layer(own).await?;
            image.assert_clean().await?;
        }
        Ok(())
    }
}

/// A command and its arguments.
type Request = (&'static str, &'static [(&'static str, &'static str)]);

const STREAM: &str = "block-stream";
const COMMIT: &str = "block-commit";

/// A job that runs, and others that then are refused, each with this reason.
struct Overlap {
    job: Request,
    refused: &'static [(Request, &'static str)],
    /// The chain when the job has ended.
    chain: &'static [usize],
    moved: (usize, usize, usize),
}

const STREAM_INTO_4: Request = (
    STREAM,
    &[
        ("device", "node4"),
        ("base", "{1}"),
        ("filter-node-name", "stream-filter"),
    ],
);
const BESIDE_STREAM: &[(Request, &str)] = &[
    (
        (STREAM, &[("device", "node5"), ("base", "{2}")]),
        "Node 'stream-filter' is busy",
    ),
    (
        (STREAM, &[("device", "node3"), ("base", "{2}")]),
        "Node 'node3' is busy",
    ),
    ((STREAM, &[("device", "node4")]), "Node 'node4' is busy"),
    (
        (COMMIT, &[("device", "node8"), ("base", "{4}")]),
        "Node 'stream-filter' is busy",
    ),
    (
        (
            COMMIT,
            &[("device", "node8"), ("base", "{1}"), ("top", "{3}")],
        ),
        "Node 'node3' is busy",
    ),
    // It has to change the header of `node2`.
    (
        (
            COMMIT,
            &[("device", "node8"), ("base", "{0}"), ("top", "{1}")],
        ),
        "Node 'node2' is busy",
    ),
];

const COMMIT_INTO_3: Request = (
    COMMIT,
    &[("device", "node8"), ("top", "{5}"), ("base", "{3}")],
);
const BESIDE_COMMIT: &[(Request, &str)] = &[
    ((STREAM, &[("device", "node3")]), "Node 'node3' is busy"),
    (
        (STREAM, &[("device", "node6"), ("base", "{2}")]),
        "Node 'node5' is busy",
    ),
    (
        (STREAM, &[("device", "node4"), ("base", "{2}")]),
        "Node 'node4' is busy",
    ),
    (
        (STREAM, &[("device", "node6"), ("base", "{4}")]),
        "Node 'node5' is busy",
    ),
    // A commit keeps others from the active layer, although it does not need it.
    (
        (STREAM, &[("device", "node8"), ("base", "{5}")]),
        "Node 'node8' is busy",
    ),
];

const COMMIT_ACTIVE: Request = (COMMIT, &[("device", "node8"), ("base", "{3}")]);
const BESIDE_ACTIVE: &[(Request, &str)] = &[(
    (STREAM, &[("device", "node5"), ("base", "{3}")]),
    "Node 'node5' is busy",
)];

const COMMIT_INTO_0: Request = (
    COMMIT,
    &[
        ("device", "node8"),
        ("top", "{2}"),
        ("base", "{0}"),
        ("filter-node-name", "commit-filter"),
    ],
);
const ON_COMMIT: &[(Request, &str)] = &[(
    (STREAM, &[("device", "node4"), ("base-node", "node2")]),
    "Cannot freeze 'backing' link to 'commit-filter'",
)];

rows! {
    OVERLAPS: Overlap { job, refused, chain, moved };
    "stream" => STREAM_INTO_4, BESIDE_STREAM, &[8, 7, 6, 5, 4, 1, 0], (4, 4, 2),
        upstream = "test_overlapping_1";
    "commit" => COMMIT_INTO_3, BESIDE_COMMIT, &[8, 7, 6, 3, 2, 1, 0], (3, 5, 3),
        upstream = "test_overlapping_2";
    "active-commit" => COMMIT_ACTIVE, BESIDE_ACTIVE, &[3, 2, 1, 0], (3, 8, 3),
        upstream = "test_overlapping_3";
    "commit-below" => COMMIT_INTO_0, ON_COMMIT, &[8, 7, 6, 5, 4, 3, 0], (0, 2, 0),
        upstream = "test_overlapping_4";
}

/// Jobs that need layers of one that runs are refused, and that goes on to its end.
#[case(upstream = "030::TestParallelOps::{row}", rows = OVERLAPS)]
async fn those_that_share_layers_are_refused(t: &mut Test, row: &Overlap) -> CaseResult {
    let links = Links::create(t).await?;
    let vm = links.launch(t).await?;
    let job = links.job(&vm, "first", row.job).speed(HELD).start().await?;
    let before = vm.state().await?;
    for ((command, arguments), why) in row.refused {
        let second = vm.cmd(command, links.arguments("second", arguments));
        second.expect_error(*why).await?;
        vm.assert_same_graph_as(&before).await?;
    }
    job.set_speed(0).await?;
    match row.chain[0] {
        8 => job.wait().await?,
        _ => job.complete().await?,
    };
    links.assert_chain(&vm, row.chain).await?;
    vm.shutdown().await?;
    links.assert_files(&[row.moved]).await
}

/// Two jobs that do not share layers.
struct Pair {
    first: Request,
    second: Request,
    chain: &'static [usize],
    moved: [(usize, usize, usize); 2],
}

const FILTERED: Request = (
    COMMIT,
    &[
        ("device", "node8"),
        ("top-node", "node2"),
        ("base-node", "node0"),
        ("filter-node-name", "commit-filter"),
    ],
);
const ON_FILTER: Request = (
    STREAM,
    &[("device", "node4"), ("base-node", "commit-filter")],
);
const INTO_2: Request = (STREAM, &[("device", "node2"), ("base-node", "node0")]);
const INTO_4: Request = (STREAM, &[("device", "node4"), ("base-node", "node0")]);
const ACTIVE_TO_5: Request = (COMMIT, &[("device", "node8"), ("base", "{5}")]);

rows! {
    PAIRS: Pair { first, second, chain, moved };
    "stream-on-the-filter-of-a-commit" => FILTERED, ON_FILTER, &[8, 7, 6, 5, 4, 0],
        [(0, 2, 0), (4, 4, 3)], upstream = "test_overlapping_5";
    "stream-below-a-commit" => INTO_4, ACTIVE_TO_5, &[5, 4, 0], [(4, 4, 1), (5, 8, 5)],
        upstream = "test_stream_commit_2";
    "stream-beside-a-commit" => INTO_2, COMMIT_ACTIVE, &[3, 2, 0], [(2, 2, 1), (3, 8, 3)],
        upstream = "test_stream_commit_1";
    "two-streams" => INTO_2, (STREAM, &[("device", "node8"), ("base-node", "node4")]),
        &[8, 4, 3, 2, 0], [(2, 2, 1), (8, 8, 5)];
}

rows! {
    ORDERS: bool;
    "upper-first" => true, upstream = "030";
    "lower-first" => false;
}

/// Jobs in one chain that share no layers go on together, and end in either order.
#[case(
    upstream = "{order}::TestParallelOps::{row}", rows = (PAIRS, ORDERS)
)]
async fn others_go_on_together(t: &mut Test, row: &Pair, order: &bool) -> CaseResult {
    let links = Links::create(t).await?;
    let vm = links.launch(t).await?;
    let active = row.chain[0] != 8;
    let lower = links.job(&vm, "lower", row.first).speed(HELD).start().await?;
    let upper = links.job(&vm, "upper", row.second).speed(HELD).start().await?;
    let mut upper = Some(upper);
    if *order {
        end(&vm, upper.take(), active).await?;
    }
    end(&vm, Some(lower), false).await?;
    end(&vm, upper, active).await?;
    links.assert_chain(&vm, row.chain).await?;
    vm.shutdown().await?;
    for pair in row.chain.windows(2) {
        let [above, below] = [pair[0], pair[1]].map(|number| &links.images[number]);
        above.assert_backing(below).await?;
    }
    links.assert_files(&row.moved).await
}

/// Lifts the limit on a job. Where a drain hurries jobs, as before 8.1, it may have ended.
async fn release(vm: &Machine, job: &Job) -> CaseResult {
    let faster = json!({"device": job.id(), "speed": 0});
    let faster = vm.cmd("block-job-set-speed", faster).outcome().await?;
    match faster {
        Err(error) if !error.desc.contains("not found") => Err(error.into()),
        _ => Ok(()),
    }
}

/// Lets a job go on to its end.
async fn end(vm: &Machine, job: Option<Job>, active: bool) -> CaseResult {
    let Some(job) = job else { return Ok(()) };
    release(vm, &job).await?;
    match active {
        true => drop(job.complete().await?),
        false => drop(job.wait().await?),
    }
    Ok(())
}

/// Four streams in one chain go on at the same time.
#[case(upstream = "030::TestParallelOps::test_stream_parallel")]
async fn four_streams_go_on_together(t: &mut Test) -> CaseResult {
    let links = Links::create(t).await?;
    let vm = links.launch(t).await?;
    let mut jobs = Vec::new();
    for number in [2, 4, 6, 8] {
        let bottom = format!("node{}", number - 1);
        let job = vm.stream(format!("node{number}").as_str()).set("bottom", bottom);
        jobs.push(job.speed(HELD).start().await?);
    }
    // From the top down: where a drain hurries jobs, those below are not drained.
    for job in jobs.iter().rev() {
        release(&vm, job).await?;
    }
    for job in jobs {
        job.wait().await?;
    }
    links.assert_chain(&vm, &[8, 6, 4, 2, 0]).await?;
    vm.shutdown().await?;
    links.assert_files(&[(2, 2, 1), (4, 4, 3), (6, 6, 5), (8, 8, 7)]).await
}
