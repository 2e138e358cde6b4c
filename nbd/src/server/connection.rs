//! One connection from its first byte to its end.

use std::sync::Arc;

use super::journal::{Closed, Event};
use super::negotiate::Negotiator;
use super::state::Shared;
use super::transmit::Transmission;
use super::wire::{End, Socket, Wire};

/// A client that was accepted and has not gone yet; the end of a server waits for it.
pub(super) struct Connection {
    number: u64,
    shared: Arc<Shared>,
}

impl Connection {
    pub(super) fn accepted(number: u64, shared: Arc<Shared>) -> Connection {
        shared.note(number, Event::Accepted);
        shared.connected.send_modify(|n| *n += 1);
        Connection { number, shared }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.connected.send_modify(|n| *n -= 1);
    }
}

/// Serves a client until the connection ends, and writes down why.
pub(super) async fn serve(socket: Socket, connection: Connection) {
    let (number, shared) = (connection.number, connection.shared.clone());
    let mut wire = Wire::new(socket, number, shared.clone());
    let conversation = async {
        let agreed = Negotiator::new(&mut wire).run().await?;
        Transmission::new(&mut wire, agreed).run().await
    };
    let ended: Result<(), End> = tokio::select! {
        // What a rule did to this very connection is the reason, even if it ended the server too.
        biased;
        ended = conversation => ended,
        () = shared.ended() => Err(End(Closed::Shutdown)),
    };
    let why = ended.err().map_or(Closed::Peer, |End(why)| why);
    // The socket goes first: who reads of the end in the journal may rely on it.
    drop(wire);
    shared.note(number, Event::Closed(why));
}
