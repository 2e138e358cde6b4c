//! The chain `top -> mid -> base` that most cases commit and stream in.

use std::ops::Range;

use iotests_core::prelude::*;

/// A layer of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    /// The raw image at the bottom.
    Base,
    /// The overlay between.
    Mid,
    /// The active layer.
    Top,
}

/// From the bottom up.
const LAYERS: [Layer; 3] = [Layer::Base, Layer::Mid, Layer::Top];

/// What these layers, from the bottom up, hold together.
pub(super) fn merged(layers: &[Content]) -> Content {
    let over = |below: Content, layer: &Content| layer.over(&below);
    layers.iter().fold(Content::nothing(), over)
}

/// How large the images of the chain are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// 2 MiB: enough for several requests of a job.
    Full,
    /// Nothing: a job has no work to do.
    Zero,
}

/// Three images, each with data of its own.
pub(super) struct Chain {
    pub(super) base: Image,
    pub(super) mid: Image,
    pub(super) top: Image,
    contents: [Content; 3],
    /// What the files are at first.
    files: [FileBytes; 3],
    pub(super) size: u64,
}

impl Chain {
    /// Makes the images.
    pub(super) async fn create(t: &Test, size: Size) -> CaseResult<Chain> {
        let bytes = if size == Size::Full { 2 * MIB } else { 0 };
        Chain::with(t, bytes, Chain::contents(bytes)).await
    }

    /// Makes the images with other contents.
    pub(super) async fn with(t: &Test, size: u64, contents: [Content; 3]) -> CaseResult<Chain> {
        let [of_base, of_mid, of_top] = &contents;
        let base = t.image("base").format(RAW).size(size).content(of_base);
        let base = base.create().await?;
        let mid = t.image("mid").backing(&base).content(of_mid);
        let mid = mid.create().await?;
        let top = t.image("top").backing(&mid).content(of_top);
        Chain::of([base, mid, top.create().await?], contents).await
    }

    /// Of images that hold this.
    pub(super) async fn of(images: [Image; 3], contents: [Content; 3]) -> CaseResult<Chain> {
        let [base, mid, top] = images;
        let files = [base.file_bytes()?, mid.file_bytes()?, top.file_bytes()?];
        let size = base.size().await?;
        Ok(Chain {
            base,
            mid,
            top,
            contents,
            files,
            size,
        })
    }

    /// What each layer holds at first: data that it has alone, data over that of lower layers, and
    /// zeroes over data, in contiguous runs and in single clusters.
    pub(super) fn contents(size: u64) -> [Content; 3] {
        let contents = [
            Content::nothing().numbered(0x20, clusters(0..24)),
            Content::nothing()
                .numbered(0x60, clusters(8..18))
                .zeroes(clusters(18..19))
                .numbered(0x60, clusters(20..25))
                .numbered(0x60, clusters(31..32)),
            Content::nothing()
                .numbered(0xa0, clusters(12..13))
                .zeroes(clusters(16..17))
                .numbered(0xa0, clusters(22..24))
                .numbered(0xa0, clusters(30..31)),
        ];
        contents.map(|content| content.cut(size))
    }

    /// A cluster that only the base has data in, one of the middle layer, and one of the top.
    const IN_EACH_LAYER: [u64; 3] = [0, 8, 12];

    /// A cluster that no layer has data in.
    pub(super) const FREE: Range<u64> = clusters(28..29);

    /// What a layer held at first.
    pub(super) fn content(&self, layer: Layer) -> &Content {
        &self.contents[layer as usize]
    }

    /// What all layers from `top` down to `base` hold together.
    pub(super) fn merged(&self, top: Layer, base: Layer) -> Content {
        let layers = base as usize..=top as usize;
        merged(self.contents.get(layers).unwrap_or_default())
    }

    /// The image of a layer.
    pub(super) fn image(&self, layer: Layer) -> &Image {
        match layer {
            Layer::Base => &self.base,
            Layer::Mid => &self.mid,
            Layer::Top => &self.top,
        }
    }

    /// The names of the files, from the bottom up.
    pub(super) fn names(&self) -> [&str; 3] {
        LAYERS.map(|layer| self.image(layer).filename())
    }

    /// A machine with the chain as its drive. A guest's device is at work, and has read from each
    /// layer.
    pub(super) async fn launch(&self, t: &Test) -> CaseResult<Machine> {
        let vm = t.host().disk(&self.top).launch().await?;
        self.assert_guest_reads_each_layer(&vm).await?;
        Ok(vm)
    }

    /// A guest reads a cluster of each layer. That is enough where nothing has changed.
    pub(super) async fn assert_guest_reads_each_layer(&self, vm: &Machine) -> CaseResult {
        let all = self.merged(Layer::Top, Layer::Base);
        let places = Chain::IN_EACH_LAYER.map(|cluster| clusters(cluster..cluster + 1));
        for place in places.into_iter().filter(|place| place.start < self.size) {
            vm.disk("top").assert_pattern(all.byte_at(place.start), place).await?;
        }
        Ok(())
    }

    /// A guest reads what the whole chain held at first.
    pub(super) async fn assert_guest_reads(&self, vm: &Machine) -> CaseResult {
        let all = self.merged(Layer::Top, Layer::Base);
        vm.disk("top").assert_reads(all).await
    }

    /// A machine has its chain as at first, and no job: the nodes, who may write to them, and what a
    /// guest reads.
    pub(super) async fn assert_nodes_unchanged(&self, vm: &Machine) -> CaseResult {
        vm.assert_no_jobs().await?;
        vm.assert_chain("top -> mid -> base").await?;
        vm.assert_read_only(&[("top", false), ("mid", true), ("base", true)]).await?;
        vm.disk("top").assert_node("top").await?;
        self.assert_guest_reads(vm).await
    }

    /// The files of these layers are as they were.
    pub(super) fn assert_unchanged(&self, layers: &[Layer]) -> CaseResult {
        let mut files = layers.iter().map(|layer| &self.files[*layer as usize]);
        files.try_for_each(FileBytes::assert_unchanged)
    }

    /// All files are as they were.
    pub(super) fn assert_files_unchanged(&self) -> CaseResult {
        self.assert_unchanged(&LAYERS)
    }

    /// A commit down to the base began and did not end: the base may have some of the data, and
    /// everything else is as it was.
    pub(super) async fn assert_files_half_committed(&self, top: Layer) -> CaseResult {
        let all = self.merged(top, Layer::Base);
        let none = self.content(Layer::Base);
        self.base.assert_reads_either(all, none).await?;
        self.assert_unchanged(&[Layer::Mid, Layer::Top])
    }

    /// The images are without errors and as large as they were, the middle one names the base as its
    /// backing file, and the top one names `below_top`.
    pub(super) async fn assert_headers(&self, below_top: Layer) -> CaseResult {
        let header = self.base.header().await?;
        header.assert("virtual-size", self.size)?;
        for (image, below) in [(&self.mid, &self.base), (&self.top, self.image(below_top))] {
            image.assert_clean().await?;
            let header = image.assert_backing(below).await?;
            header.assert("virtual-size", self.size)?;
        }
        Ok(())
    }
}
