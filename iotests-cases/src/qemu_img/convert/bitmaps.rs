//! Persistent bitmaps, which `--bitmaps` copies.

use std::io::{Seek as _, SeekFrom, Write as _};

use imgtools::img::BitmapAction;
use imgtools::qcow2;
use iotests_core::prelude::*;

use crate::qemu_img::bitmap_bits;

defaults! { groups = [BITMAP], unsupported_imgopts = ["compat", "extended_l2"] }

/// A disk with three bitmaps: `b0` records writes, `b1` does not any more, `b2` has bits of 512 bytes; the first two know one write each.
async fn source(t: &Test) -> CaseResult<Image> {
    let disk = t.image("source").size(8 * MIB).create().await?;
    let add = |name| disk.bitmap(name).with(|call| call.action(BitmapAction::Add));
    add("b0").await?;
    disk.write(0x11, MIB..MIB + CLUSTER).await?;
    add("b1").with(|call| call.granularity(128 * KIB)).await?;
    disk.write(0x22, 3 * MIB..3 * MIB + CLUSTER).await?;
    disk.bitmap("b1").with(|call| call.action(BitmapAction::Disable)).await?;
    add("b2").with(|call| call.granularity(512)).await?;
    disk.write(0x33, 5 * MIB + 512..5 * MIB + KIB).await?;
    Ok(disk)
}

const DATA: Content = Content::of(&[
    (0x11, MIB..MIB + CLUSTER),
    (0x22, 3 * MIB..3 * MIB + CLUSTER),
    (0x33, 5 * MIB + 512..5 * MIB + KIB),
]);

/// Name, granularity, flags and bits of a bitmap.
type State = (String, u8, u32, Vec<u8>);

/// All bitmaps of an image, by name.
fn bitmaps(image: &Image) -> CaseResult<Vec<State>> {
    let file = qcow2::Image::open(image.file())?;
    let mut all = Vec::new();
    for bitmap in file.bitmaps()? {
        let bits = bitmap_bits(image, &bitmap.name)?;
        all.push((bitmap.name, bitmap.granularity_bits, bitmap.flags, bits));
    }
    all.sort();
    Ok(all)
}

rows! {
    HOWS: &[&str];
    "plain" => &[];
    "compressed" => &["-c"];
    "other-clusters" => &["-o", "cluster_size=4k"];
}

/// The copy has the bitmaps of the source: their names, granularities and bits, and whether they record.
#[case(upstream = "qemu-img-bitmaps", rows = HOWS)]
async fn are_the_same_in_the_copy(t: &mut Test, how: &&[&str]) -> CaseResult {
    let source = source(t).await?;
    let before = source.file_bytes()?;
    let expected = bitmaps(&source)?;
    let dirty = |bits: &[u8]| bits.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let counts: Vec<u32> = expected.iter().map(|(_, _, _, bits)| dirty(bits)).collect();
    check!(counts == [3, 1, 1]);
    let target = t.image("target").size(8 * MIB).reserve().await?;
    source.convert(&target).with(|call| call.bitmaps().args(*how)).await?;
    before.assert_unchanged()?;
    check!(bitmaps(&target)? == expected);
    target.assert_reads(&DATA).await?;
    target.assert_clean().await?;

    t.step("the copy records");
    target.write(0x44, 7 * MIB..7 * MIB + 512).await?;
    let counts: Vec<u32> = bitmaps(&target)?.iter().map(|(_, _, _, bits)| dirty(bits)).collect();
    check!(counts == [4, 1, 2]);
    target.assert_clean().await
}

/// Without `--bitmaps` there are none, and of a source without any there are none either.
#[case]
async fn are_left_out_unless_asked_for(t: &mut Test) -> CaseResult {
    let source = source(t).await?;
    let target = t.image("target").size(8 * MIB).reserve().await?;
    source.convert(&target).await?;
    check!(bitmaps(&target)? == []);
    target.assert_clean().await?;
    let again = t.image("again").size(8 * MIB).reserve().await?;
    target.convert(&again).with(|call| call.bitmaps()).await?;
    check!(bitmaps(&again)? == []);
    again.assert_reads(&DATA).await
}

/// A bitmap that was not stored is inconsistent: nothing is copied, unless it is to be left out.
#[case(upstream = "qemu-img-bitmaps")]
async fn that_are_broken_are_not_copied(t: &mut Test) -> CaseResult {
    let source = source(t).await?;
    let expected = bitmaps(&source)?;
    let all = qcow2::Image::open(source.file())?.bitmaps()?;
    let broken = all.iter().find(|bitmap| bitmap.name == "b1");
    let broken = broken.ok_or_else(|| Failure::new("there is no bitmap b1"))?;
    let mut file = std::fs::OpenOptions::new().write(true).open(source.file())?;
    file.seek(SeekFrom::Start(broken.entry_offset + 12))?;
    file.write_all(&(broken.flags | 1).to_be_bytes())?;
    let before = source.file_bytes()?;

    let target = t.image("target").size(8 * MIB).reserve().await?;
    let convert = source.convert(&target).with(|call| call.bitmaps());
    convert.expect_error("Cannot copy inconsistent bitmap 'b1'").await?;
    check!(!target.file().exists());
    let convert = source.convert(&target).with(|call| call.bitmaps().skip_broken_bitmaps());
    let said = convert.await?.combined_text();
    check!(said.contains("Skipping inconsistent bitmap 'b1'"), "{said}");
    before.assert_unchanged()?;
    let kept: Vec<_> = expected.into_iter().filter(|(name, ..)| name != "b1").collect();
    check!(bitmaps(&target)? == kept);
    target.assert_reads(&DATA).await?;
    target.assert_clean().await
}

/// A target that can have none is refused.
#[case(upstream = "qemu-img-bitmaps", rows = TARGETS)]
async fn need_a_target_that_can_have_them(t: &mut Test, target: &(&[&str], &str)) -> CaseResult {
    let source = source(t).await?;
    let before = source.file_bytes()?;
    let copy = t.file("copy")?;
    let call = t.qemu_img(["convert", "--bitmaps", "-f", "qcow2"]).args(target.0);
    let call = call.args([source.filename(), copy.as_str()]);
    call.expect_error(target.1).await?;
    before.assert_unchanged()
}

rows! {
    TARGETS: (&[&str], &str);
    "raw" => (&["-O", "raw"], "Format driver 'raw' does not support bitmaps");
    "v2" => (&["-O", "qcow2", "-o", "compat=0.10"], "does not support bitmaps");
}
