//! A server and two clients in one self-contained program that runs to completion.
//!
//! ```sh
//! cargo run -p qemu-nbd --example both_sides
//! ```

use std::error::Error;

use nbd::client::{Pattern, Reconnect};
use nbd::server::backend::MemoryBackend;
use nbd::server::{Export, Server};
use nbd::{Client, Uri};

const SIZE: u64 = 16 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // The server listens on any free port for as long as this value lives.
    let export = Export::new(MemoryBackend::new(SIZE)).name("disk");
    let server = {
        let _inside = runtime.enter();
        Server::builder().export(export).listen_tcp()?
    };
    let uri = server.uri().ok_or("it listens")?;
    println!("serving {uri}");

    blocking(&uri)?;
    runtime.block_on(work(&uri))?;
    runtime.block_on(server.finish())?;
    Ok(())
}

/// Without async: several requests in flight, from one thread.
fn blocking(uri: &Uri) -> Result<(), Box<dyn Error>> {
    use nbd::client::Command;
    let mut client = Client::builder().connect_uri_blocking(uri)?;
    let writes = (0..16).map(|n| client.submit(Command::write(n * 4096, vec![7; 4096])));
    for write in writes.collect::<Result<Vec<_>, _>>()? {
        client.wait(write)?;
    }
    assert_eq!(client.read(0, 512)?, [7; 512]);
    client.disconnect()?;
    println!("16 writes in flight at once, without a runtime");
    Ok(())
}

/// Uses several connections as one disk, and lists its holes.
async fn work(uri: &Uri) -> Result<(), Box<dyn Error>> {
    let builder = Client::builder().context("base:allocation");
    let handle = builder.clone().handle().connections(4);
    let handle = handle.reconnect(Reconnect::Never).connect_uri(uri).await?;
    handle.write(1 << 20, vec![1; 8 << 20]).await?;
    handle.flush().await?;
    let mut extents = handle.extents("base:allocation", 0..SIZE);
    while let Some(extent) = extents.next().await {
        let extent = extent?;
        println!("{:>9} {:>9} {:?}", extent.offset, extent.len, extent.base());
    }
    handle.disconnect().await;
    let client = builder.connect_uri(uri).await?;
    let wrong = client.verify(1 << 20..9 << 20, Pattern::Byte(1)).await?;
    assert_eq!(wrong, None);
    client.disconnect().await?;
    Ok(())
}
