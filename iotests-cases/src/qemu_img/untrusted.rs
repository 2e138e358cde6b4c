//! Images that were made by others, and name files of ours.

use iotests_core::author::TestFile;
use iotests_core::prelude::*;
use nbd::server::backend::MemoryBackend;
use nbd::server::{Event, Export, Server};

defaults! { formats = [QCOW2], protocols = [FILE], groups = [QUICK],
unsupported_imgopts = ["compat", "data_file"] }

/// How the name of our file stands in the image.
struct Name {
    data_file: bool,
    name: fn(&TestFile) -> String,
}

rows! {
    NAMES: Name { data_file, name };
    "data-file-in-json" => true,
        |socket| format!(r#"json:{{"driver":"nbd","path":"{}"}}"#, socket.as_str());
    "data-file-by-protocol" => true, |socket| format!("nbd:unix:{}", socket.as_str());
    "backing-file-in-json" => false,
        |socket| format!(r#"json:{{"driver":"nbd","path":"{}"}}"#, socket.as_str());
    "backing-file-by-protocol" => false, |socket| format!("nbd:unix:{}", socket.as_str());
}

/// `qemu-img info` opens nothing that the image names, neither its data file nor its backing file, and
/// connects to no server that they lead to.
#[case(rows = NAMES)]
async fn are_not_followed_by_info(t: &mut Test, name: &Name) -> CaseResult {
    let socket = t.socket("nbd")?;
    let server = Server::builder().export(Export::new(MemoryBackend::new(MIB)));
    let server = server.listen_unix(&*socket)?;
    let named = (name.name)(&socket);
    // As long as the name that is put in its place.
    let (long, image) = ("d".repeat(named.len()), t.image("disk").size(MIB));
    let image = match name.data_file {
        true => image.option("data_file", t.file(&long)?.as_str()).create().await?,
        false => image.create().await?,
    };
    match name.data_file {
        true => replace_data_file(&image, &named)?,
        false => {
            let args = [
                "rebase",
                "-u",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                &named,
                image.filename(),
            ];
            t.qemu_img(args).await?;
        }
    }

    let info = image.info().json().await?;
    info.assert("virtual-size", MIB)?;
    let recorded = match name.data_file {
        true => "format-specific/data/data-file",
        false => "backing-filename",
    };
    info.assert(recorded, named.as_str())?;
    let journal = server.finish().await?;
    let clients = journal.count(|entry| entry.event == Event::Accepted);
    check!(clients == 0, "{clients} connected to what the image names");
    Ok(())
}

/// Puts another name in the place of that of the data file, padded by what JSON and paths do not mind.
fn replace_data_file(image: &Image, name: &str) -> CaseResult {
    const DATA_FILE: [u8; 4] = 0x4441_5441_u32.to_be_bytes();
    let mut bytes = std::fs::read(image.file())?;
    let at = bytes.windows(4).position(|it| it == DATA_FILE);
    let at = at.ok_or_else(|| Failure::new("the image names no data file"))?;
    let len = u32::try_from(name.len())?;
    let old = u32::from_be_bytes(*bytes[at + 4..].first_chunk().unwrap_or(&[0; 4]));
    check!(old >= len);
    let padded = usize::try_from(old.next_multiple_of(8))?;
    bytes[at + 4..at + 8].copy_from_slice(&len.to_be_bytes());
    let field = &mut bytes[at + 8..at + 8 + padded];
    field.fill(0);
    field[..name.len()].copy_from_slice(name.as_bytes());
    // What follows begins where the new name ends.
    let rest = at + 8 + name.len().next_multiple_of(8);
    let next = at + 8 + padded;
    let tail = bytes[next..4096].to_vec();
    bytes[rest..rest + tail.len()].copy_from_slice(&tail);
    std::fs::write(image.file(), bytes)?;
    Ok(())
}
