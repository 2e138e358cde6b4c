//! Serves a file without changing it: clients' writes are kept in memory until this program ends.
//!
//! ```sh
//! cargo run -p qemu-nbd --example copy_on_write                                 # shows what it does
//! cargo run -p qemu-nbd --example copy_on_write -- disk.raw /tmp/nbd.sock       # serves until Ctrl-D
//! qemu-io -f raw -c 'write -P 7 0 4k' 'nbd+unix:///?socket=/tmp/nbd.sock'
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nbd::Client;
use nbd::proto::TransmissionFlags;
use nbd::server::backend::{Backend, BackendError, Bytes, FileBackend, Piece};
use nbd::server::{Export, Server, ServerBuilder};
use tokio::io::AsyncReadExt;

/// The unit of copy-on-write.
const CLUSTER: u64 = 64 * 1024;

struct CopyOnWrite {
    base: FileBackend,
    /// Written clusters, by number.
    written: Mutex<HashMap<u64, Vec<u8>>>,
    /// One write at a time, so that none is lost while another copies the same cluster.
    writing: tokio::sync::Mutex<()>,
}

impl CopyOnWrite {
    fn new(base: FileBackend) -> CopyOnWrite {
        CopyOnWrite {
            base,
            written: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    fn written(&self) -> MutexGuard<'_, HashMap<u64, Vec<u8>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole cluster's current content; the last one may be shorter.
    async fn cluster(&self, number: u64) -> Result<Vec<u8>, BackendError> {
        if let Some(data) = self.written().get(&number) {
            return Ok(data.clone());
        }
        let start = number * CLUSTER;
        let len = CLUSTER.min(self.size() - start);
        let mut data = Vec::with_capacity(len as usize);
        for piece in self.base.read(start, len).await? {
            match piece {
                Piece::Data(bytes) => data.extend_from_slice(&bytes),
                Piece::Hole(n) => data.resize(data.len() + n as usize, 0),
            }
        }
        Ok(data)
    }
}

/// Splits a range at cluster boundaries: number, first byte in the cluster, bytes.
fn parts(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    std::iter::from_fn(move || {
        let left = offset + len - at;
        let n = left.min(CLUSTER - at % CLUSTER);
        let part = (at / CLUSTER, (at % CLUSTER) as usize, n as usize);
        at += n;
        (n > 0).then_some(part)
    })
}

impl Backend for CopyOnWrite {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn flags(&self) -> TransmissionFlags {
        // Nothing here is on stable storage, so there is nothing to flush.
        TransmissionFlags::SEND_FLUSH | TransmissionFlags::SEND_FUA
    }

    fn contexts(&self) -> Vec<String> {
        Vec::new()
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Vec<Piece>, BackendError> {
        let mut pieces = Vec::new();
        for (number, start, n) in parts(offset, len) {
            let data = self.cluster(number).await?;
            pieces.push(Piece::Data(Bytes::from(data).slice(start..start + n)));
        }
        Ok(pieces)
    }

    async fn write(&self, offset: u64, data: Bytes, _fua: bool) -> Result<(), BackendError> {
        let _alone = self.writing.lock().await;
        let mut rest = &data[..];
        for (number, start, n) in parts(offset, data.len() as u64) {
            let mut cluster = self.cluster(number).await?;
            let (now, later) = rest.split_at(n);
            cluster[start..start + n].copy_from_slice(now);
            rest = later;
            self.written().insert(number, cluster);
        }
        Ok(())
    }
}

fn builder(file: &Path) -> std::io::Result<ServerBuilder> {
    let backend = CopyOnWrite::new(FileBackend::open(file, true)?);
    Ok(Server::builder().export(Export::new(backend)))
}

/// Serves a file of its own to a client of its own.
async fn show() -> Result<(), Box<dyn Error>> {
    let name = format!("copy_on_write-{}.raw", std::process::id());
    let file = std::env::temp_dir().join(name);
    let before = vec![1; 3 * CLUSTER as usize + 512];
    std::fs::write(&file, &before)?;
    let server = builder(&file)?.listen_tcp()?;
    let client = Client::builder();
    let client = client.connect_uri(&server.uri().ok_or("it listens")?).await?;

    // Across a cluster boundary, so two clusters are copied.
    client.write(CLUSTER - 100, vec![2; 200]).await?;
    let mut expected = before.clone();
    expected[CLUSTER as usize - 100..][..200].fill(2);
    assert_eq!(client.read(0, client.export().size).await?, expected);
    assert_eq!(std::fs::read(&file)?, before);
    println!("the client reads what it wrote, and the file is unchanged");

    client.disconnect().await?;
    server.finish().await?;
    std::fs::remove_file(&file)?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (file, socket) = match (arguments.next(), arguments.next()) {
        (None, _) => return show().await,
        (Some(file), Some(socket)) => (file, socket),
        (Some(_), None) => return Err("usage: copy_on_write [FILE SOCKET]".into()),
    };
    let server = builder(&file)?.listen_unix(socket)?;
    if let Some(uri) = server.uri() {
        println!(
            "serving {} at {uri} until the end of the input",
            file.display()
        );
    }
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    server.finish().await?;
    Ok(())
}
