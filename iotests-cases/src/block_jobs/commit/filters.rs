//! Commits in a chain with filters on top of it and in it.

use iotests_core::prelude::*;

use super::chain::merged;

defaults! { needs = [Driver("throttle")] }

/// `top-filter -> cow-3 -> cow-2 -> cow-1 -> bottom-filter -> cow-0`. The images know nothing of each
/// other.
struct Filtered {
    images: Vec<Image>,
    contents: Vec<Content>,
}

impl Filtered {
    async fn create(t: &Test) -> CaseResult<Filtered> {
        let ranges = [(0x20, 0..12), (0x50, 4..16), (0x80, 10..22), (0xb0, 16..32)];
        let (mut images, mut contents) = (Vec::new(), Vec::new());
        for (number, (first, range)) in ranges.into_iter().enumerate() {
            let content = Content::nothing().numbered(first, clusters(range));
            let image = t.image(&format!("cow-{number}")).size(2 * MIB);
            images.push(image.content(&content).create().await?);
            contents.push(content);
        }
        Ok(Filtered { images, contents })
    }

    /// A machine with the whole chain as its disk.
    async fn launch(&self, t: &Test) -> CaseResult<Machine> {
        let filter = |name: &str, file: Node| Node::throttle("group", file).node_name(name);
        let bottom = filter("bottom-filter", self.images[0].node());
        let overlays = self.images[1..].iter();
        let chain = overlays.fold(bottom, |below, image| image.node().backing(below));
        let vm = t.host().throttle_group("group", json!({}));
        vm.disk(filter("top-filter", chain)).launch().await
    }

    /// What these layers hold together.
    fn merged(&self, top: usize, base: usize) -> Content {
        merged(&self.contents[base..=top])
    }

    async fn assert_guest_reads(&self, vm: &Machine) -> CaseResult {
        vm.disk("top-filter").assert_reads(self.merged(3, 0)).await
    }

    /// What was committed from `top` into `base` is there, and no other layer changed; of the headers
    /// only that of `renamed` did, which names the base.
    async fn assert_files(&self, top: usize, base: usize, renamed: Option<usize>) -> CaseResult {
        for (number, image) in self.images.iter().enumerate() {
            let upper = if number == base { top } else { number };
            image.assert_layer(self.merged(upper, number)).await?;
            image.assert_clean().await?;
            if renamed == Some(number) {
                image.assert_backing(&self.images[base]).await?;
            } else {
                let header = image.header().await?;
                header.assert_absent("backing-filename").context(image.to_string())?;
            }
        }
        Ok(())
    }
}

/// From the first node down, this is the chain: the `file` of a filter, the backing node of others.
async fn assert_line(vm: &Machine, names: &[&str]) -> CaseResult {
    let mut path = String::new();
    for pair in names.windows(2) {
        path += if pair[0].ends_with("filter") {
            "/file"
        } else {
            "/backing"
        };
        vm.assert_block_path(names[0], &path, pair[1]).await?;
    }
    path += "/backing";
    vm.assert_block_path(names[0], &path, None).await
}

/// A commit of `top` into `base`, by number.
struct Commit {
    top: usize,
    base: usize,
    /// The chain afterwards.
    line: &'static [&'static str],
    /// The nodes that are not needed any more.
    gone: &'static [&'static str],
}

rows! {
    COMMITS: Commit { top, base, line, gone };
    "beside-filters" => 2, 1,
        &["top-filter", "cow-3", "cow-1", "bottom-filter", "cow-0"], &["cow-2"],
        upstream = "test_filterless_commit";
    "through-a-filter" => 1, 0,
        &["top-filter", "cow-3", "cow-2", "cow-0"], &["cow-1", "bottom-filter"],
        upstream = "test_commit_through_filter";
    "active-below-a-filter" => 3, 2,
        &["top-filter", "cow-2", "cow-1", "bottom-filter", "cow-0"], &["cow-3"],
        upstream = "test_filtered_active_commit_without_filter";
}

/// A commit removes the filters between its layers, and leaves those above and below.
#[case(upstream = "040::TestCommitWithFilters::{row}", rows = COMMITS)]
async fn between_the_layers_go(t: &mut Test, row: &Commit) -> CaseResult {
    let chain = Filtered::create(t).await?;
    let vm = chain.launch(t).await?;
    chain.assert_guest_reads(&vm).await?;

    let (top, base) = (&chain.images[row.top], &chain.images[row.base]);
    let active = row.top == 3;
    let job = vm.commit("top-filter").top(top).base(base);
    if active {
        job.start().await?.complete().await?;
    } else {
        // With filters, the generated name is not fit for the header.
        let job = job.set("backing-file", base.filename());
        job.start().await?.wait().await?;
    }

    vm.assert_no_jobs().await?;
    assert_line(&vm, row.line).await?;
    vm.assert_no_nodes(row.gone).await?;
    vm.assert_read_only(&[("top-filter", false), (base.name(), !active)]).await?;
    chain.assert_guest_reads(&vm).await?;
    vm.shutdown().await?;
    let renamed = (!active).then_some(row.top + 1);
    chain.assert_files(row.top, row.base, renamed).await
}

/// A commit of the active layer removes the filter on top of it as well: the guest's device, which
/// kept that from being deleted, then uses the base.
#[case(upstream = "040::TestCommitWithFilters::test_filtered_active_commit_with_filter")]
async fn on_top_goes_with_the_active_layer(t: &mut Test) -> CaseResult {
    let chain = Filtered::create(t).await?;
    let vm = chain.launch(t).await?;
    chain.assert_guest_reads(&vm).await?;

    let in_use = "Node top-filter is in use";
    vm.remove_node("top-filter").expect_error(in_use).await?;
    vm.commit("top-filter").base("cow-2").start().await?.complete().await?;
    vm.remove_node("top-filter").await?;

    vm.assert_no_jobs().await?;
    vm.assert_no_nodes(&["top-filter", "cow-3"]).await?;
    assert_line(&vm, &["cow-2", "cow-1", "bottom-filter", "cow-0"]).await?;
    vm.assert_read_only(&[("cow-2", false), ("cow-1", true)]).await?;
    vm.disk("top-filter").assert_node("cow-2").await?;
    vm.shutdown().await?;
    chain.assert_files(3, 2, None).await
}
