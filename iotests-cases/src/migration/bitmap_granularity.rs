//! Bitmaps of any granularity, taken along by a guest that moves.

use iotests_core::prelude::*;

rows! {
    GRANULARITIES: u64;
    "64-kib" => 64 * KIB;
    "512-kib" => 512 * KIB;
    "64-mib" => 64 * MIB;
    "2-gib" => 1 << 31;
}

/// A bitmap arrives with all its bits, and keeps recording.
#[case(
    formats = [QCOW2], protocols = [FILE], groups = [RW, QUICK, MIGRATION, BITMAP], host = System,
    guest = RunningIdle, rows = GRANULARITIES, unsupported_imgopts = ["cluster_size"],
)]
async fn is_kept(t: &mut Test, granularity: &u64) -> CaseResult {
    let size = 5_u64 << 30;
    let disk = t.image("disk").size(size).create().await?;
    let source = t.vm().name("source").disk(&disk).launch().await?;
    let target = t.vm().name("target").disk(&disk).incoming("defer");
    let target = target.launch().await?;
    let bitmap = source.bitmap("disk", "b0");
    bitmap.add().granularity(*granularity).await?;
    for start in [512, 3 << 30, size - 512] {
        source.disk("disk").write(0x11, start..start + 512).await?;
    }
    let sha256 = bitmap.sha256().await?;
    let sent = bitmap.await?.count;

    t.migrate(&source, &target)
        .capability("dirty-bitmaps")
        // By default it ends only where a bitmap can be sent in 300 ms, by the bandwidth so far.
        .parameter("downtime-limit", 60_000)
        .await?;

    source.shutdown().await?;
    let bitmap = target.bitmap("disk", "b0");
    let expected = json!({"granularity": granularity, "count": sent, "recording": true});
    bitmap.assert(expected).await?;
    check!(bitmap.sha256().await? == sha256);
    target.disk("disk").write(0x22, 1 << 30..(1 << 30) + 512).await?;
    let more = granularity * u64::from(*granularity <= 1 << 30);
    bitmap.assert(json!({"count": sent + more})).await?;
    target.shutdown().await?;
    Ok(())
}
