//! Requests to the same cluster that are on their way together.

use super::*;

/// Parts of one cluster, of which each request gets one; the last two touch.
const PARTS: [std::ops::Range<u64>; 4] = [0..4096, 8192..9728, 32768..36864, 36864..40000];

/// Concurrent writes that allocate the same cluster all take effect, beside what was there and what is below.
#[case(host = Host::None, rows = KINDS)]
async fn share_a_new_cluster(t: &mut Test, kind: &Kind) -> CaseResult {
    let mut content = Content::nothing().written(0x22, 0..512);
    let (base, disk) = kind.create(t, &content).await?;
    let mut commands = Vec::new();
    for cluster in 0..16 {
        for (byte, part) in (0x31..).zip(PARTS) {
            let (start, end) = (cluster * CLUSTER + part.start, cluster * CLUSTER + part.end);
            commands.push(format!("aio_write -P {byte} {start} {}", end - start));
            content = content.written(byte, start..end);
        }
    }
    commands.push("aio_flush".to_owned());
    disk.io(commands).await?;
    disk.assert_reads(content.over(&Content::nothing().written(0x11, 0..SIZE))).await?;
    disk.assert_clean().await?;
    base.assert_fill(0x11).await
}
