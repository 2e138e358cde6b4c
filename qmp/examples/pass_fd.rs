//! Gives QEMU a file descriptor.
//!
//! An emulator takes descriptors at any time, with `add-fd`. The storage daemon has no such
//! command; it can only inherit them, here a listening socket for its NBD server.
//!
//! `cargo run --example pass_fd [qemu-storage-daemon | qemu-system-x86_64]`

mod support;

use std::error::Error;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use qmp::types::AddFd;
use qmp::{Client, Options};
use serde_json::json;

#[allow(dead_code)]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args().nth(1).unwrap_or_else(|| "qemu-storage-daemon".into());
    run(&program).await
}

pub(crate) async fn run(program: &str) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("nbd");
    let listener = UnixListener::bind(&path)?;
    let takes_fds = program.contains("system");
    let server = ["--nbd-server", "addr.type=fd,addr.str=1"];
    let args = if takes_fds { &[] } else { &server[..] };
    // Inherited as descriptor 1.
    let (_qemu, socket) = support::start(program, args, OwnedFd::from(listener).into())?;
    let client = Client::from_fd(socket, Options::default()).await?;

    if takes_fds {
        let file = tempfile::tempfile()?;
        file.set_len(1 << 20)?;
        let added = client.call(AddFd::new().opaque("a file without a name")).fd(file).await?;
        let filename = format!("/dev/fdset/{}", added.fdset_id);
        let node = json!({"driver": "file", "node-name": "n0", "filename": filename});
        client.execute("blockdev-add", node).await?;
        println!("opened {filename}");
    } else {
        let mut magic = [0; 8];
        UnixStream::connect(&path)?.read_exact(&mut magic)?;
        println!(
            "the inherited socket says {}",
            String::from_utf8_lossy(&magic)
        );
        if &magic != b"NBDMAGIC" {
            return Err("this is not an NBD server".into());
        }
    }
    client.quit().await?;
    Ok(())
}
