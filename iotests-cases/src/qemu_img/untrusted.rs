//! Images that were made by others, and name files of ours.

use imgtools::qcow2::{self, Extension};
use iotests_core::author::TestFile;
use iotests_core::prelude::*;
use nbd::server::backend::MemoryBackend;
use nbd::server::{Event, Export, Server};

defaults! { formats = [QCOW2], protocols = [FILE], groups = [QUICK],
unsupported_imgopts = ["compat", "data_file", "extended_l2", "preallocation"] }

/// Which of its files the image names so.
enum File {
    Data,
    Backing,
}

rows! {
    FILES: File;
    "data-file" => File::Data;
    "backing-file" => File::Backing;
}

rows! {
    /// How a name leads to our server.
    NAMES: fn(&TestFile) -> String;
    "in-json" => |socket| format!(r#"json:{{"driver":"nbd","path":"{}"}}"#, socket.as_str());
    "by-protocol" => |socket| format!("nbd:unix:{}", socket.as_str());
}

/// A server of ours, full of 0x55, and what it is called in an image.
struct Trap {
    server: Server,
    socket: TestFile,
    name: String,
}

impl Trap {
    fn new(t: &Test, name: fn(&TestFile) -> String) -> CaseResult<Trap> {
        let socket = t.socket("nbd")?;
        let content = MemoryBackend::with_content(&[0x55; MIB as usize]);
        let server = Server::builder().export(Export::new(content));
        let server = server.listen_unix(&*socket)?;
        let name = name(&socket);
        Ok(Trap {
            server,
            socket,
            name,
        })
    }

    /// An image that has it for its data file.
    async fn data_file_of(&self, t: &Test, raw: &str) -> CaseResult<Image> {
        // As long as the name that is put in its place.
        let long = t.file(&"d".repeat(self.name.len()))?;
        let image = t.image("disk").size(MIB).option("data_file", long.as_str());
        let image = image.option("data_file_raw", raw).create().await?;
        replace_data_file(&image, &self.name)?;
        Ok(image)
    }

    fn node(&self) -> Node {
        Node::new("nbd").set("server", json!({"type": "unix", "path": self.socket}))
    }

    /// What is said where the name is taken for that of a file.
    fn no_such_file(&self) -> String {
        format!("Could not open '{}': No such file or directory", self.name)
    }

    /// Nobody has connected to it.
    fn assert_untouched(&self) -> CaseResult {
        let journal = self.server.journal();
        let clients = journal.count(|entry| entry.event == Event::Accepted);
        check!(clients == 0, "{clients} connected to what the image names");
        Ok(())
    }
}

/// `qemu-img info` opens nothing that the image names, neither its data file nor its backing file, and
/// connects to no server that they lead to.
#[case(rows = (FILES, NAMES))]
async fn are_not_followed_by_info(
    t: &mut Test,
    file: &File,
    name: &fn(&TestFile) -> String,
) -> CaseResult {
    let trap = Trap::new(t, *name)?;
    let (image, recorded) = match file {
        File::Data => {
            let image = trap.data_file_of(t, "off").await?;
            (image, "format-specific/data/data-file")
        }
        File::Backing => {
            let image = t.image("disk").size(MIB).create().await?;
            let args = [
                "rebase",
                "-u",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                &trap.name,
                image.filename(),
            ];
            t.qemu_img(args).await?;
            (image, "backing-filename")
        }
    };

    let info = image.info().json().await?;
    info.assert("virtual-size", MIB)?;
    info.assert(recorded, trap.name.as_str())?;
    trap.assert_untouched()?;
    trap.server.finish().await?;
    Ok(())
}

rows! {
    RAW_DATA: &str;
    "behind-tables" => "off";
    "as-the-disk" => "on";
}

/// The tools take the recorded name of a data file for that of a file, however it begins, and connect to no server that it would lead to; nor
/// do they for an image over this one. They read it with the data file that its user names.
#[case(rows = (NAMES, RAW_DATA))]
async fn are_not_followed_for_data(
    t: &mut Test,
    name: &fn(&TestFile) -> String,
    raw: &&str,
) -> CaseResult {
    let trap = Trap::new(t, *name)?;
    let image = trap.data_file_of(t, raw).await?;
    let over = t.file("over")?;
    let (top, below) = (over.as_str(), image.filename());
    let create = ["create", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below];
    t.qemu_img(create).args([top, "1M"]).await?;
    let over = t.open(top).format(QCOW2).await?;
    let file = image.file_bytes()?;

    for image in [&image, &over] {
        image.io(["read 0 64k"]).expect_error(trap.no_such_file()).await?;
        let copy = t.image("copy").format(RAW).reserve().await?;
        image.convert(&copy).expect_error(trap.no_such_file()).await?;
        check!(!std::fs::exists(copy.file())?, "it has begun to copy");
    }
    trap.assert_untouched()?;

    let given = image.node().without("node-name").set("data-file", trap.node());
    t.open(given.filename()).await?.assert_reads(data(raw)).await?;
    file.assert_unchanged()?;
    trap.server.finish().await?;
    Ok(())
}

/// A machine takes the recorded name of a data file for that of a file, however it begins, and connects to no server that it would lead to; nor
/// does it for an image over this one. It opens it with the data file that is given to it.
#[case(rows = (NAMES, RAW_DATA), host = Any)]
async fn are_not_followed_by_a_machine(
    t: &mut Test,
    name: &fn(&TestFile) -> String,
    raw: &&str,
) -> CaseResult {
    let trap = Trap::new(t, *name)?;
    let image = trap.data_file_of(t, raw).await?;
    let over = t.image("over").size(MIB).create().await?;
    let file = image.file_bytes()?;
    let vm = t.host().launch().await?;

    vm.add_node(image.node()).refused(trap.no_such_file()).await?;
    let over = over.node().backing(image.node());
    vm.add_node(over.clone()).refused(trap.no_such_file()).await?;
    trap.assert_untouched()?;

    let given = over.set("backing.data-file", trap.node());
    vm.add_node(given).await?;
    vm.node("over").assert_reads(data(raw)).await?;
    vm.shutdown().await?;
    file.assert_unchanged()?;
    trap.server.finish().await?;
    Ok(())
}

/// What is read with our server for the data file of an image that nobody has written to.
fn data(raw: &str) -> Content {
    match raw {
        "on" => Content::nothing().written(0x55, 0..MIB),
        _ => Content::nothing(),
    }
}

/// Puts another name in the place of that of the data file, padded by what JSON and paths do not mind.
fn replace_data_file(image: &Image, name: &str) -> CaseResult {
    let named = qcow2::Image::open(image.file())?.extension(Extension::DATA_FILE)?;
    let named = named.ok_or_else(|| Failure::new("the image names no data file"))?;
    let mut bytes = std::fs::read(image.file())?;
    let at = usize::try_from(named.offset)?;
    let len = u32::try_from(name.len())?;
    check!(named.data.len() >= name.len());
    let padded = named.data.len().next_multiple_of(8);
    // The length precedes the name.
    bytes[at - 4..at].copy_from_slice(&len.to_be_bytes());
    let field = &mut bytes[at..at + padded];
    field.fill(0);
    field[..name.len()].copy_from_slice(name.as_bytes());
    // What follows begins where the new name ends.
    let rest = at + name.len().next_multiple_of(8);
    let tail = bytes[at + padded..4096].to_vec();
    bytes[rest..rest + tail.len()].copy_from_slice(&tail);
    std::fs::write(image.file(), bytes)?;
    Ok(())
}
