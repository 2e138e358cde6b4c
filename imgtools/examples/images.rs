//! A tour with a few images: create, convert with progress, snapshot, map, measure, check and
//! repair a damaged image, rebase, commit, and inspect the chain.
//!
//! ```text
//! cargo run --example images
//! ```

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use imgtools::image::ImageSpec;
use imgtools::img::{CheckVerdict, QemuImg, Repair};
use imgtools::io::{IoCommand, QemuIo};
use imgtools::qcow2;
use imgtools::tools::{Finder, ToolKind};

const MIB: u64 = 1 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let finder = Finder::new();
    // Calls have no deadline by default; these share one.
    let img = QemuImg::new(finder.find(ToolKind::Img)?).deadline(Duration::from_secs(600));
    let io = QemuIo::new(finder.find(ToolKind::Io)?).deadline(Duration::from_secs(600));
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name);

    // Create. A path names exactly that file.
    let base = file("base 2024-05-01T10:00,a.qcow2");
    img.create(&base).format("qcow2").size(64 * MIB).run().await?;
    io.open(&base).command(IoCommand::write(0, 16 * MIB).pattern(0x11)).run().await?;

    // Convert, with progress.
    let copy = ImageSpec::file(file("copy.img")).format("raw");
    img.convert(&base, &copy)
        .run_with_progress(|progress| println!("converted {progress}"))
        .await?;
    println!(
        "the copy is the same: {}",
        img.compare(&base, &copy).run().await?.is_same()
    );

    // Internal snapshots.
    img.snapshot_create(&base, "before").run().await?;
    for snapshot in img.snapshots(&base).run().await? {
        println!("snapshot {} is called {}", snapshot.id, snapshot.name);
    }

    // Map: streams the extents, however many there are.
    let mut extents = img.map(&base).stream().await?;
    let mut data = 0;
    while let Some(extent) = extents.next().await.transpose()? {
        data += if extent.data { extent.length } else { 0 };
    }
    println!("{} MiB of data", data / MIB);

    // Measure.
    let measured = img.measure(&base).output_format("qcow2").run().await?;
    println!("a copy would take {} bytes", measured.required);

    // A chain, its info, a commit and a rebase.
    let (middle, top) = (file("middle.qcow2"), file("top.qcow2"));
    img.create(&middle).format("qcow2").backing(&base, "qcow2").run().await?;
    img.create(&top).format("qcow2").backing(&middle, "qcow2").run().await?;
    io.open(&top).command(IoCommand::write(0, MIB).pattern(0x22)).run().await?;
    show_chain(&img, &top).await?;
    img.commit(&top).run().await?;
    img.rebase(&top, &base).backing_format("qcow2").run().await?;
    show_chain(&img, &top).await?;

    // Check a damaged image: a cluster in use with a refcount of 0.
    let image = qcow2::Image::open(&middle)?;
    if let qcow2::Mapping::Data { host, .. } = image.lookup(0)?
        && let Some((position, _)) = image.refcount_position(host)?
    {
        qcow2::poke(&middle, position, &0u16.to_be_bytes())?;
    }
    let check = img.check(&middle).run().await?;
    println!("{}", check.verdict);
    assert_eq!(check.verdict, CheckVerdict::Corrupt);
    img.check(&middle).repair(Repair::All).run().await?;
    img.check(&middle).run().await?.clean()?;

    // Errors can be classified.
    match img.info(file("nothing")).run().await {
        Err(error) if error.is_not_found() => println!("there is no such image"),
        Err(error) => return Err(error.into()),
        Ok(info) => println!("unexpectedly, it exists: {}", info.filename),
    }
    Ok(())
}

async fn show_chain(img: &QemuImg, top: &Path) -> Result<(), Box<dyn Error>> {
    for (depth, image) in img.backing_chain(top).run().await?.iter().enumerate() {
        println!("{depth}: {} ({})", image.filename, image.format);
    }
    Ok(())
}
