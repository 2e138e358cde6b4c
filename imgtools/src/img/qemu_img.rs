//! The program and its defaults, the starting point of all calls.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::image::{FileName, ImageSpec, Options};
use crate::tools::Tool;

/// qemu-img, with the defaults for all its calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QemuImg {
    pub(super) tool: Arc<Tool>,
    pub(super) deadline: Option<Duration>,
}

impl QemuImg {
    /// Wraps this program.
    pub fn new(tool: Tool) -> QemuImg {
        QemuImg {
            tool: Arc::new(tool),
            deadline: None,
        }
    }

    /// The deadline of each call (default: none); see [`Call`] for what a call that misses it
    /// leaves behind.
    pub fn deadline(mut self, deadline: Duration) -> QemuImg {
        self.deadline = Some(deadline);
        self
    }

    /// The program.
    pub fn tool(&self) -> &Tool {
        &self.tool
    }

    /// `amend`: changes format options of an image.
    pub fn amend(&self, image: impl Into<ImageSpec>, options: impl Into<Options>) -> Call<Amend> {
        Call::new(self, Amend::new(image.into(), options.into()))
    }

    /// `bench`: a simple benchmark.
    pub fn bench(&self, image: impl Into<ImageSpec>) -> Call<Bench> {
        Call::new(self, Bench::new(image.into()))
    }

    /// `bitmap`: adds, removes, clears, enables, disables or merges persistent bitmaps.
    pub fn bitmap(&self, image: impl Into<ImageSpec>, name: impl Into<String>) -> Call<Bitmap> {
        Call::new(self, Bitmap::new(image.into(), name.into()))
    }

    /// `check`: checks an image for errors, and repairs it if requested.
    pub fn check(&self, image: impl Into<ImageSpec>) -> Call<Check> {
        Call::new(self, Check::new(image.into()))
    }

    /// `commit`: writes an overlay's changes into its backing file.
    pub fn commit(&self, image: impl Into<ImageSpec>) -> Call<Commit> {
        Call::new(self, Commit::new(image.into()))
    }

    /// `compare`: whether two images have the same content.
    pub fn compare(&self, a: impl Into<ImageSpec>, b: impl Into<ImageSpec>) -> Call<Compare> {
        Call::new(self, Compare::new(a.into(), b.into()))
    }

    /// `convert`: copies an image into another one.
    pub fn convert(
        &self,
        source: impl Into<ImageSpec>,
        target: impl Into<ImageSpec>,
    ) -> Call<Convert> {
        Call::new(self, Convert::new(source.into(), target.into()))
    }

    /// `create`: creates a new image of the given format, default raw.
    pub fn create(&self, file: impl Into<FileName>) -> Call<Create> {
        Call::new(self, Create::new(file.into()))
    }

    /// `dd`: copies blocks of an image into a new one.
    pub fn dd(&self, source: impl Into<ImageSpec>, target: impl Into<FileName>) -> Call<Dd> {
        Call::new(self, Dd::new(source.into(), target.into()))
    }

    /// `info`: describes an image.
    pub fn info(&self, image: impl Into<ImageSpec>) -> Call<Info> {
        Call::new(self, Info(image.into()))
    }

    /// `info --backing-chain`: describes an image and all its backing files, from the top.
    pub fn backing_chain(&self, image: impl Into<ImageSpec>) -> Call<BackingChain> {
        Call::new(self, BackingChain(image.into()))
    }

    /// `map`: maps the extents of an image.
    pub fn map(&self, image: impl Into<ImageSpec>) -> Call<Map> {
        Call::new(self, Map::new(image.into()))
    }

    /// `measure`: the size of a file that would hold this image's content.
    pub fn measure(&self, image: impl Into<ImageSpec>) -> Call<Measure> {
        Call::new(self, Measure::of(image.into()))
    }

    /// `measure --size`: the size of a file for an image of this many bytes.
    pub fn measure_size(&self, bytes: u64) -> Call<Measure> {
        Call::new(self, Measure::size(bytes))
    }

    /// `rebase`: gives an overlay another backing file. The empty text `""` removes it. A relative
    /// name is resolved against the image's directory, and recorded unchanged.
    pub fn rebase(
        &self,
        image: impl Into<ImageSpec>,
        backing: impl Into<FileName>,
    ) -> Call<Rebase> {
        Call::new(self, Rebase::new(image.into(), backing.into()))
    }

    /// `resize`: changes the size of an image.
    pub fn resize(&self, image: impl Into<ImageSpec>, size: Size) -> Call<Resize> {
        Call::new(self, Resize::new(image.into(), size))
    }

    /// `snapshot -c`: takes an internal snapshot.
    pub fn snapshot_create(&self, image: impl Into<ImageSpec>, name: &str) -> Call<Snapshot> {
        Call::new(self, Snapshot::new(image.into(), "-c", name))
    }

    /// `snapshot -a`: reverts to an internal snapshot.
    pub fn snapshot_apply(&self, image: impl Into<ImageSpec>, name: &str) -> Call<Snapshot> {
        Call::new(self, Snapshot::new(image.into(), "-a", name))
    }

    /// `snapshot -d`: deletes an internal snapshot.
    pub fn snapshot_delete(&self, image: impl Into<ImageSpec>, name: &str) -> Call<Snapshot> {
        Call::new(self, Snapshot::new(image.into(), "-d", name))
    }

    /// The internal snapshots of an image. (Taken from `info`: `snapshot -l` has no JSON output.)
    pub fn snapshots(&self, image: impl Into<ImageSpec>) -> Call<SnapshotList> {
        Call::new(self, SnapshotList(image.into()))
    }

    /// Any command line. The answer is the output, whatever the exit status.
    pub fn raw(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Call<Raw> {
        Call::new(self, Raw).args(args)
    }
}
