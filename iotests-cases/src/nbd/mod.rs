//! NBD: what servers tell, what clients survive.

mod block_status;
mod reconnect;
mod server_remove;
