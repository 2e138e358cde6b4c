//! One connection from its first byte to its end.

use std::sync::Arc;

use super::journal::{Closed, Event};
use super::negotiate::Negotiator;
use super::state::Shared;
use super::transmit::Transmission;
use super::wire::{End, Socket, Wire};

/// Serves a client until the connection ends, and writes down why.
pub(super) async fn serve(socket: Socket, number: u64, shared: Arc<Shared>) {
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
