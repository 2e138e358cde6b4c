//! Copies from each format into each other.

use imgtools::img::Convert;
use iotests_core::author::ImgCall;
use iotests_core::case::Format;
use iotests_core::prelude::*;

use super::super::EMPTY_VMDK;
use super::{DATA, PATTERNS, SIZE, source};

defaults! {
    formats = [RAW, QCOW2, QCOW, QED, VMDK, VDI, VPC, VHDX, PARALLELS],
    unsupported_imgopts = ["compat", "extended_l2", "refcount_bits"],
}

/// An image to be copied.
struct Source {
    format: Format,
    options: &'static [(&'static str, &'static str)],
}

rows! {
    SOURCES: Source { format, options };
    "raw" => RAW, &[];
    "qcow2" => QCOW2, &[];
    "qcow2-v2-512-byte-clusters" => QCOW2, &[("compat", "0.10"), ("cluster_size", "512")];
    "qcow2-2m-clusters" => QCOW2, &[("cluster_size", "2M")];
    "qcow2-extended-l2" => QCOW2, &[("extended_l2", "on")];
    "qcow2-data-file" => QCOW2, &[("data_file", "")];
    "qcow2-preallocated" => QCOW2, &[("preallocation", "metadata")];
    "qcow" => QCOW, &[], needs = [WritableFormat("qcow")],
        formats = [RAW, QCOW2, VMDK];
    "qed" => QED, &[], needs = [WritableFormat("qed")],
        formats = [RAW, QCOW2, VMDK];
    "vmdk" => VMDK, &[], needs = [WritableFormat("vmdk")],
        formats = [RAW, QCOW2, VMDK];
    "vdi" => VDI, &[], needs = [WritableFormat("vdi")],
        formats = [RAW, QCOW2, VMDK];
    "vhdx" => VHDX, &[], needs = [WritableFormat("vhdx")],
        formats = [RAW, QCOW2, VMDK];
    "parallels" => PARALLELS, &[], needs = [WritableFormat("parallels")],
        formats = [RAW, QCOW2, VMDK];
}

/// Copies an image to a target of the same size, which a VHD has only where it is asked for.
fn exactly(image: &Image, target: &Image) -> ImgCall<Convert> {
    image.convert(target).with(|call| match target.format() {
        VPC => call.option("force_size", "on"),
        _ => call,
    })
}

/// A copy has the size and all data of its source, and in qcow2 no space for its zeroes; the source stays as it is.
#[case(rows = SOURCES)]
async fn hold_all_of_the_source(t: &mut Test, source: &Source) -> CaseResult {
    let data = t.file("data")?;
    let mut image = t.image("source").format(source.format).size(SIZE);
    for (name, value) in source.options {
        let value = if *name == "data_file" {
            data.as_str()
        } else {
            value
        };
        image = image.option(name, value);
    }
    let image = image.content(&PATTERNS).create().await?;
    let before = image.file_bytes()?;
    let target = t.image("target").size(SIZE).reserve().await?;

    exactly(&image, &target).await?;

    before.assert_unchanged()?;
    check!(target.size().await? == SIZE);
    target.assert_reads(&PATTERNS).await?;
    if target.format() == QCOW2 {
        target.assert_layer(&DATA).await?;
    }
    target.assert_clean().await
}

/// A raw file whose last sector is not a whole one is read as if it were, with zeroes.
#[case]
async fn of_odd_bytes_end_with_zeroes(t: &mut Test) -> CaseResult {
    let odd = t.image("odd").format(RAW).size(SIZE).content(&PATTERNS).create().await?;
    let file = std::fs::OpenOptions::new().write(true).open(odd.file())?;
    file.set_len(SIZE - 100)?;
    let before = odd.file_bytes()?;
    let target = t.image("target").size(SIZE).reserve().await?;
    exactly(&odd, &target).await?;
    before.assert_unchanged()?;
    check!(target.size().await? == SIZE);
    target.assert_reads(PATTERNS.zeroes(SIZE - 100..SIZE)).await?;
    target.assert_clean().await
}

/// An empty disk is copied as one.
#[case(formats = [RAW, QCOW2, QED, VMDK, VDI, PARALLELS], known_bugs = [EMPTY_VMDK])]
async fn of_nothing_are_empty(t: &mut Test) -> CaseResult {
    let empty = t.image("empty").format(RAW).size(0).create().await?;
    let target = t.image("target").size(0).reserve().await?;
    empty.convert(&target).await?;
    check!(target.size().await? == 0);
    target.assert_clean().await?;
    let back = t.image("back").format(RAW).size(0).reserve().await?;
    target.convert(&back).await?;
    check!(back.size().await? == 0);
    Ok(())
}

/// What is copied into an encrypted image can be read with its key, and not without.
#[case(formats = [LUKS, QCOW2], groups = [CRYPTO], needs = [Luks])]
async fn into_an_encrypted_image_are_encrypted(t: &mut Test) -> CaseResult {
    let source = source(t, RAW).await?;
    let target = t.image("target").size(SIZE).keys(&[]).create().await?;
    source.convert(&target).with(|call| call.no_create()).await?;
    target.assert_reads(&PATTERNS).await?;
    let file = std::fs::read(target.file())?;
    let readable = file.chunks(512).any(|sector| sector == [0x11; 512]);
    check!(!readable, "the data can be read in the file without a key");

    // And out of it.
    let back = t.image("back").format(RAW).size(SIZE).reserve().await?;
    let before = target.file_bytes()?;
    target.convert(&back).await?;
    before.assert_unchanged()?;
    check!(back.size().await? == SIZE);
    back.assert_reads(&PATTERNS).await
}
