//! qemu-img on images that nobody else has open.

use imgtools::process::Output;
use imgtools::qcow2;
use iotests_core::author::{NO_CPU_TIME, ToolCall};
use iotests_core::prelude::*;

mod bitmap;
mod commit;
mod compare;
mod convert;
mod created;
mod dd;
mod grown;
mod info;
mod map;
mod measure;
mod rebase;
mod shrink;
mod snapshots;
mod untrusted;

/// See docs/qemu-findings.md.
const EMPTY_VMDK: KnownBug = known(
    "a sparse VMDK of size 0 is treated as a descriptor file",
    "Unsupported image type 'monolithicSparse'",
    OnFormat(VMDK),
);

/// Runs a call that makes a key, again where that failed with [`NO_CPU_TIME`]; any exit status will do.
async fn with_cpu_time(call: ToolCall) -> CaseResult<Output> {
    loop {
        let output = call.clone().any_status().await?;
        if !output.combined_text().contains(NO_CPU_TIME) {
            return Ok(output);
        }
    }
}

/// The bits of a persistent bitmap, as they are in the image, in bytes.
fn bitmap_bits(image: &Image, name: &str) -> CaseResult<Vec<u8>> {
    let file = qcow2::Image::open(image.file())?;
    let all = file.bitmaps()?;
    let bitmap = all.iter().find(|bitmap| bitmap.name == name);
    let bitmap = bitmap.ok_or_else(|| Failure::new("there is no such bitmap"))?;
    let cluster = file.header().cluster_size() as usize;
    let data = std::fs::read(image.file())?;
    let mut bits = Vec::new();
    for entry in file.bitmap_table(bitmap)? {
        match entry.offset() {
            Some(offset) => {
                let rest = data.get(offset as usize..);
                let stored = rest.and_then(|rest| rest.get(..cluster));
                let stored = stored.ok_or_else(|| Failure::new("bits are behind the file"))?;
                bits.extend_from_slice(stored);
            }
            None => bits.resize(
                bits.len() + cluster,
                if entry.is_all_ones() { 0xff } else { 0 },
            ),
        }
    }
    let count = file.header().size.div_ceil(1 << bitmap.granularity_bits);
    bits.truncate(count.div_ceil(8) as usize);
    Ok(bits)
}
