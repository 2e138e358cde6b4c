//! NBD: what servers report, what clients survive.

use iotests_core::prelude::*;

defaults! { groups = [RW] }

mod block_status;
mod client_blockdev;
mod hostile;
mod reconnect;
mod server_remove;
mod wire;
