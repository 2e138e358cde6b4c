//! What becomes of data in qcow2 images, of each kind that there is.

use imgtools::qcow2::{self, Mapping};
use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2], protocols = [FILE], groups = [RW, QUICK], host = Any,
    unsupported_imgopts = [
        "compat", "data_file", "encrypt", "extended_l2", "cluster_size", "refcount_bits",
    ],
}

mod compressed;
mod discarded;
mod failing;
mod in_flight;

/// An image with these options, and with its data in a file of its own where that is said.
struct Kind {
    options: &'static [(&'static str, &'static str)],
    data_file: bool,
}

rows! {
    KINDS: Kind { options, data_file };
    "version-2" => &[("compat", "0.10")], false;
    "version-3" => &[("compat", "1.1")], false;
    "extended-l2" => &[("extended_l2", "on")], false;
    // Each block of refcounts is for 32 KiB, so that the cache of them is soon too small.
    "small-clusters" => &[("cluster_size", "512"), ("refcount_bits", "64")], false;
    "data-file" => &[("compat", "1.1")], true;
}

const SIZE: u64 = 2 * MIB;

impl Kind {
    /// The image `disk`, which holds this, over `base`, which is full of 0x11.
    async fn create(&self, t: &Test, content: &Content) -> CaseResult<(Image, Image)> {
        let base = t.image("base").size(SIZE).fill(0x11).create().await?;
        let mut disk = t.image("disk").size(SIZE).backing(&base).content(content);
        for (name, value) in self.options {
            disk = disk.option(name, value);
        }
        if self.data_file {
            // It goes with its folder.
            disk = disk.option("data_file", format!("{}.data", base.file().as_str()));
        }
        Ok((base, disk.create().await?))
    }
}

/// Where the clusters of the disk are in its file, as far as they have a place.
fn places(disk: &Image) -> CaseResult<Vec<Option<u64>>> {
    let image = qcow2::Image::open(&**disk.file())?;
    let starts = (0..SIZE).step_by(image.header().cluster_size() as usize);
    let place = |start| {
        Ok(match image.lookup(start)? {
            Mapping::Data { host, .. } | Mapping::Compressed { host, .. } => Some(host),
            Mapping::Zero { host } => host,
            _ => None,
        })
    };
    starts.map(place).collect()
}
