//! Sources that cannot be read everywhere, and targets that cannot be written.

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2, RAW], unsupported_imgopts = ["compat", "extended_l2", "refcount_bits"],
}

/// Sectors that cannot be read.
struct Bad {
    sectors: &'static [u64],
    options: &'static [&'static str],
}

rows! {
    BAD: Bad { sectors, options };
    "first" => &[0], &[];
    "one" => &[1000], &[];
    "last" => &[4 * MIB / 512 - 1], &[];
    "several" => &[7, 8, 9, 4095, 4096, 6000], &[];
    "out-of-order" => &[7, 8, 9, 4095, 4096, 6000], &["-W", "-m", "16"];
    "compressed" => &[7, 4096], &["-c"], formats = [QCOW2];
}

impl Bad {
    /// A disk of 4 MiB, full of data, and its name where these sectors are bad.
    async fn source(&self, t: &Test) -> CaseResult<(Image, String)> {
        let source = t.image("source").format(RAW).size(4 * MIB).fill(0x11).create().await?;
        let error =
            |sector: &u64| json!({"event": "none", "iotype": "read", "sector": sector, "errno": 5});
        let errors: Vec<Value> = self.sectors.iter().map(error).collect();
        let node = json!({
            "driver": "raw",
            "file": {
                "driver": "blkdebug", "inject-error": errors,
                "image": {"driver": "file", "filename": source},
            },
        });
        Ok((source, format!("json:{node}")))
    }
}

/// With `--salvage` the copy has zeroes for each sector that cannot be read, and everything else.
#[case(rows = BAD, needs = [Driver("blkdebug")])]
async fn lose_no_more_than_what_is_unreadable(t: &mut Test, bad: &Bad) -> CaseResult {
    let (source, name) = bad.source(t).await?;
    let before = source.file_bytes()?;
    let target = t.image("target").size(4 * MIB).reserve().await?;
    let call = t.qemu_img(["convert", "--salvage", "-O", t.format().name()]);
    let said = call.args(bad.options).args([&name, target.filename()]).text().await?;
    let mut expected = Content::nothing().written(0x11, 0..4 * MIB);
    for sector in bad.sectors {
        expected = expected.zeroes(sector * 512..(sector + 1) * 512);
        let warning = format!(
            "error while reading offset {}: Input/output error",
            sector * 512
        );
        check!(
            said.contains(&warning),
            "expected {warning:?}, found {said}"
        );
    }
    before.assert_unchanged()?;
    target.assert_reads(&expected).await?;
    target.assert_clean().await
}

/// Without it the copy fails at the first of them, and says where.
#[case(rows = BAD, needs = [Driver("blkdebug")])]
async fn are_not_copied_otherwise(t: &mut Test, bad: &Bad) -> CaseResult {
    let (source, name) = bad.source(t).await?;
    let before = source.file_bytes()?;
    let target = t.image("target").size(4 * MIB).reserve().await?;
    let call = t.qemu_img(["convert", "-O", t.format().name()]);
    let call = call.args(bad.options).args([&name, target.filename()]);
    let output = call.expect_error("Input/output error").await?;
    check!(output.status.code() == Some(1));
    check!(output.combined_text().contains("error while reading at byte "));
    before.assert_unchanged()
}

/// A target that cannot be written fails the copy, also with `--salvage`.
#[case(formats = [RAW], needs = [Driver("blkdebug")], rows = SALVAGE)]
async fn targets_fail_the_copy(t: &mut Test, options: &&[&str]) -> CaseResult {
    let source = t.image("source").size(4 * MIB).fill(0x11).create().await?;
    let target = t.image("target").size(4 * MIB).create().await?;
    let node = json!({
        "driver": "raw",
        "file": {
            "driver": "blkdebug",
            "inject-error": [{"event": "none", "iotype": "write", "sector": 5000, "errno": 28}],
            "image": {"driver": "file", "filename": target},
        },
    });
    let before = source.file_bytes()?;
    let call = t.qemu_img(["convert", "-n", "-f", "raw", "-O", "raw"]).args(*options);
    let call = call.args([source.filename(), &format!("json:{node}")]);
    call.expect_error("error while writing at byte 2097152: No space left on device")
        .await?;
    before.assert_unchanged()?;
    // In order, so that what was before it is there.
    target.assert_pattern(0x11, 0..2 * MIB).await
}

rows! {
    SALVAGE: &[&str];
    "plain" => &[];
    "with-salvage" => &["--salvage"];
}
