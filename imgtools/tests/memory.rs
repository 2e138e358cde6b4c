//! Memory use, in a separate program, so that only this is counted.

use imgtools::img::QemuImg;
use imgtools::tools::{Tool, ToolKind};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// As many as a terabyte has that was written in random order.
const EXTENTS: u64 = 1_400_000;

/// An image that is as fragmented as can be makes qemu-img print more than a hundred megabytes.
#[test]
fn a_map_of_1_400_000_extents_is_streamed_in_little_memory() {
    let map = format!(
        r#"exec awk 'BEGIN {{ printf "["; for (i = 0; i < {EXTENTS}; i++)
             printf "%s{{ \"start\": %.0f, \"length\": 65536, \"depth\": 0, \"present\": true, \"zero\": false, \"data\": true, \"offset\": %.0f}}",
               (i ? ",\n" : ""), i * 65536, 327680 + i * 65536
             print "]" }}'"#
    );
    let shell = Tool::new(ToolKind::Img, "/bin/sh").with_option("-c");
    let img = QemuImg::new(shell.with_option(map));
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let mut extents = img.map("x").stream_blocking().unwrap();
    let mut end = 0;
    while let Some(extent) = extents.next_blocking() {
        let extent = extent.unwrap();
        assert_eq!(extent.start, end);
        end = extent.end();
    }
    assert_eq!(end, EXTENTS * 65536);
    let peak = HEAP.peak_usage() - before;
    println!("{peak} bytes at most");
    // Kept whole, they are a hundred megabytes as text and as many as values.
    assert!(peak < 4 << 20, "{peak} bytes");
}
