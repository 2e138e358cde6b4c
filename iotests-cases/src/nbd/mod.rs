//! NBD: what servers report, what clients survive.

use iotests_core::prelude::*;

defaults! { groups = [RW] }

mod block_status;
mod client_blockdev;
mod exports;
mod hostile;
mod large;
mod reconnect;
mod server_remove;
mod server_start;
mod wire;

/// What a client prints, since 11, that is closed when there is no server to flush to.
const CLOSED: &str = "Failed flush for 'nbd+unix:";

/// A client that asks what is allocated.
pub(crate) async fn allocation_client(uri: &str) -> CaseResult<nbd::Client> {
    let client = nbd::Client::builder().context("base:allocation");
    Ok(client.connect_uri(&uri.parse()?).await?)
}
