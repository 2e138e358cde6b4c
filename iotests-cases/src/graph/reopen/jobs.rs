//! A chain with a job in it: links that the job needs are frozen, others are not, and options that were
//! meant for the chain as it was do not fit the one that the job leaves.

use super::*;

type Step = (fn(Node) -> Node, Result<(), &'static str>);

/// A job in the chain `other -> top -> base`.
struct Work {
    start: fn(&Machine) -> JobBuilder,
    /// Reopens while it runs and when it is about to end; they get the options of the whole chain.
    during: &'static [Step],
    /// Those when it has ended.
    after: &'static [Step],
    /// The chain that is left.
    left: &'static [&'static str],
    /// What the images hold then: each layer, and those that went into it.
    held: &'static [(&'static str, &'static [&'static str])],
}

rows! {
    WORKS: Work { start, during, after, left, held };
    "a-stream-of-everything" => |vm| vm.stream("other"), &[], &[
        (|whole| whole, Err(OTHER_BACKING)),
        (|whole| whole.without("backing"), Ok(())),
        (Node::no_backing, Ok(())),
    ], &["other"], &[("other", &["other", "top", "base"])], upstream = "test_block_stream_1";
    "a-stream-down-to-the-base" => |vm| vm.stream("other").base("base"), &[], &[
        (|whole| whole, Err(OTHER_BACKING)),
        (|whole| whole.without("backing"), Err("backing is missing for 'other'")),
        (|whole| whole.clone().backing(part(&whole, "backing.backing")), Ok(())),
        (|whole| whole.backing("base"), Ok(())),
    ], &["other", "base"], &[("other", &["other", "top"])], upstream = "test_block_stream_2";
    "a-stream-above-the-base" => |vm| vm.stream("other").base("base"), &[
        (Node::no_backing, Err("Cannot change frozen 'backing' link from 'other' to 'top'")),
        // The base itself is not needed.
        (|whole| whole.set("backing.backing", ()), Ok(())),
    ], &[(Node::no_backing, Ok(()))], &["other"], &[("other", &["other", "top"])],
        upstream = "test_block_stream_3";
    "a-stream-below-the-top" => |vm| vm.stream("top").set("filter-node-name", "filter"), &[
        (|whole| whole, Err(OTHER_BACKING)),
        (
            |whole| part(&whole, "backing").read_only(true),
            Err("Read-only block node 'top' cannot support read-write users"),
        ),
        (
            |whole| part(&whole, "backing").read_only(false).no_backing(),
            Err("Cannot change frozen 'backing' link from 'top' to 'base'"),
        ),
        // The job does without what is above it.
        (Node::no_backing, Ok(())),
    ], &[], &["other"], &[("top", &["top", "base"])], upstream = "test_block_stream_4";
    "a-commit-of-the-top" => |vm| vm.commit("other"), &[
        (
            |whole| whole.set("backing.backing", ()),
            Err("Cannot change frozen 'backing' link from 'top' to 'base'"),
        ),
        (Node::no_backing, Err("Cannot change frozen 'backing' link from 'other' to 'top'")),
    ], &[], &["base"], &[("base", &["other", "top", "base"])],
        upstream = "test_block_commit_1";
    "a-commit-below-the-top" => |vm| vm.commit("other").top("top").base("base"), &[
        (|whole| whole.set("backing.backing", ()), Err(OTHER_BACKING)),
        (Node::no_backing, Err("Cannot replace implicit backing child of other")),
    ], &[(|whole| whole.backing("base"), Ok(()))], &["other", "base"],
        &[("base", &["top", "base"])], upstream = "test_block_commit_2";
}

const OTHER_BACKING: &str = "Cannot change the option 'backing.";

/// Reopens with what the job allows, and is refused what it does not, while it runs, when it is about
/// to end and when it has ended. Its data is whole.
#[case(upstream = "245::TestBlockdevReopen::{work}", groups = [JOB], rows = WORKS)]
async fn keep_what_they_need(t: &mut Test, work: &Work) -> CaseResult {
    let images = Images::create(t).await?;
    let below = alone(&images.top).backing(alone(&images.base));
    let whole = alone(&images.other).backing(below);
    let vm = t.host().disk(Disk::of(&whole)).launch().await?;
    vm.disk("other").io("aio_write -P 0x11 128k 64k").await?;
    let write = |name: &str, content: Content| match name {
        "other" => content.written(0x11, clusters(2..3)),
        _ => content,
    };

    let mut job = (work.start)(&vm).manual().start().await?;
    let refused = |steps: &'static [Step]| steps.iter().filter(|(_, outcome)| outcome.is_err());
    for (change, outcome) in refused(work.during) {
        let says = outcome.err().unwrap_or_default();
        vm.reopen_all([change(whole.clone())]).expect_error(says).await?;
    }
    if work.left == ["base"] {
        job.wait_ready().await?;
        take(&vm, &whole, work.during).await?;
        vm.cmd("job-complete", json!({"id": job.id()})).await?;
    }
    job.wait_status("pending").await?;
    take(&vm, &whole, work.during).await?;
    job.finalize().await?;
    job.dismiss().await?;
    take(&vm, &whole, work.after).await?;

    vm.assert_no_jobs().await?;
    let held = |name: &str| {
        let layers = work.held.iter().find(|(image, _)| *image == name);
        let layers = layers.map_or(vec![name], |(_, layers)| layers.to_vec());
        let layers = layers.into_iter().rev();
        layers.fold(Content::nothing(), |below, name| {
            write(name, own(name)).over(&below)
        })
    };
    let seen = work.left.iter().rev();
    let seen = seen.fold(Content::nothing(), |below, name| held(name).over(&below));
    vm.disk("other").assert_node(work.left[0]).await?;
    vm.assert_chain(&work.left.join(" -> ")).await?;
    vm.disk("other").assert_reads(seen).await?;
    vm.assert_read_only(&[(work.left[0], false)]).await?;
    vm.shutdown().await?;
    for image in [&images.base, &images.top, &images.other] {
        image.assert_layer(held(image.name())).await?;
        image.assert_clean().await?;
    }
    Ok(())
}

async fn take(vm: &Machine, whole: &Node, steps: &[Step]) -> CaseResult {
    for (change, outcome) in steps {
        let node = change(whole.clone());
        let what = node.to_string();
        match outcome {
            Ok(()) => vm.reopen_all([node]).await.context(what)?,
            Err(says) => vm.reopen_all([node]).refused(*says).await.context(what)?,
        }
    }
    Ok(())
}
