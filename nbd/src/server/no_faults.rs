//! Stand-ins for fault injection without the feature `faults`: uninhabited types.

use crate::proto::server::{Advertised, Outgoing};
use crate::proto::{OptionCode, OptionReply, Request};

use super::conversation::{Verdict, Write};
use bytes::Bytes;

/// There are no faults.
#[derive(Debug)]
pub(super) enum Faults {}

/// No action on a connection.
#[derive(Debug)]
pub(super) enum Effect {}

/// Nothing is shared.
#[derive(Debug)]
pub(super) enum FaultState {}

macro_rules! nothing {
    ($($name:ident($($arg:ty),*) $(-> $out:ty)?;)*) => {
        impl Faults {
            $(#[allow(clippy::too_many_arguments)]
            pub(super) fn $name(&self $(, _: $arg)*) $(-> $out)? { match *self {} })*
            pub(super) fn changes(&self) -> Option<std::future::Pending<()>> { match *self {} }
        }
    };
}

nothing! {
    is_armed() -> bool;
    refresh();
    awaits_client_flags();
    awaits_option();
    awaits_request();
    awaits_payload(&Request);
    completed();
    progress(usize) -> bool;
    intake_limit(usize) -> usize;
    intake_is_open() -> bool;
    client_flags();
    option(OptionCode, u32) -> Option<Vec<OptionReply>>;
    request(u64, &Request);
    verdict(u64) -> Verdict;
    advertise(Advertised) -> Advertised;
    send(Outgoing<Bytes>, usize);
    settle(usize);
    release(usize) -> bool;
    next_write() -> Option<Write>;
    next_of_flood() -> Option<Write>;
    next_effect() -> Option<Effect>;
    is_drained() -> bool;
    released() -> u64;
}
