//! The block graph: which node stands on which, and how that changes while they are in use.

use std::cell::Cell;

use imgtools::qcow2;
use iotests_core::author::Cmd;
use iotests_core::prelude::*;

use crate::block_jobs::served::Served;

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

/// This waits for a write that our server holds back: the machine has received the command, and answers only after the write goes on.
async fn assert_waits_for_write(vm: &Machine, held: &Served, command: Cmd) -> CaseResult {
    let goes_on = Cell::new(false);
    let waits = async {
        command.await?;
        check!(goes_on.get(), "the command did not wait for the write");
        Ok::<_, Failure>(())
    };
    let release = async {
        // Its answer comes after the command has been received.
        vm.cmd("query-yank", ()).out_of_band().await?;
        goes_on.set(true);
        held.release();
        Ok::<_, Failure>(())
    };
    let (waited, released) = tokio::join!(waits, release);
    released?;
    waited
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
