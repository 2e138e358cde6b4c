//! The block graph: which node stands on which, and how that changes while they are in use.

use std::cell::Cell;
use std::path::Path;

use imgtools::qcow2;
use iotests_core::author::{Cmd, MachineNbd};
use iotests_core::prelude::*;
use nbd::proto::{Mode, OptionCode, OptionReplyCode};

use crate::block_jobs::served::Served;
use crate::nbd::wire::{Wire, option};

defaults! { groups = [RW] }

mod children;
mod internal_snapshot;
mod reopen;
mod resize;
mod snapshot;
mod transaction;

/// What is asked for, and why it is refused.
type Refusal = (&'static str, fn() -> Value, &'static str);

/// Each of these is refused, and changes nothing.
async fn assert_refused(t: &Test, vm: &Machine, refusals: &[Refusal]) -> CaseResult {
    for (command, arguments, error) in refusals {
        let arguments = arguments();
        t.step(format!("{command} {arguments}"));
        vm.cmd(command, arguments).refused(*error).await?;
    }
    Ok(())
}

/// This waits for a write that our server holds back: after it has received the command, the machine turns again and again to a client that
/// negotiates with its NBD server, and answers the command only when the write goes on.
async fn assert_waits_for_write(
    t: &Test,
    vm: &Machine,
    server: &MachineNbd,
    held: &Served,
    command: Cmd,
) -> CaseResult {
    let socket = server.socket().ok_or_else(|| Failure::new("no socket"))?;
    let mut other = Wire::connect(Path::new(socket.as_str())).await?;
    other.agree(Mode::Simple).await?;
    let goes_on = Cell::new(false);
    let waits = async {
        command.await?;
        check!(goes_on.get(), "the command did not wait for the write");
        Ok::<_, Failure>(())
    };
    let release = async {
        // Its answer comes after the command has been received.
        vm.cmd("query-yank", ()).out_of_band().await?;
        // Before, a drained machine serves no clients at all.
        if t.has(since(8, 1))? {
            for _ in 0..8 {
                other.send(&option(OptionCode::LIST, &[])).await;
                check!(other.answer().await? == Some(OptionReplyCode::ACK));
            }
        }
        goes_on.set(true);
        held.release();
        Ok::<_, Failure>(())
    };
    let (waited, released) = tokio::join!(waits, release);
    released?;
    waited?;
    other.send(&option(OptionCode::ABORT, &[])).await;
    other.ended().await;
    Ok(())
}

/// The range of its file where a qcow2 image has this cluster.
fn host_range(image: &Image, guest: u64) -> CaseResult<std::ops::Range<u64>> {
    let file = qcow2::Image::open(image.file())?;
    let entry = file.l2_entry(guest)?.ok_or_else(|| Failure::new("there is no such table"))?;
    match entry.1.mapping(file.header()) {
        qcow2::Mapping::Data { host, .. } => Ok(host..host + CLUSTER),
        _ => Err(Failure::new("there is no data in this cluster")),
    }
}
