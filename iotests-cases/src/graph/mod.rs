//! The block graph: which node stands on which, and how that changes while they are in use.

use std::cell::Cell;

use iotests_core::author::Cmd;
use iotests_core::prelude::*;

use crate::served::Served;

defaults! { groups = [RW] }

mod children;
mod inactive;
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

/// This waits for a write that our server holds back.
async fn assert_waits_for_write(vm: &Machine, held: &Served, command: Cmd) -> CaseResult {
    let (is_done, waited) = (Cell::new(false), Cell::new(false));
    let command = async {
        let done = command.await;
        is_done.set(true);
        done
    };
    let release = || {
        waited.set(!is_done.get());
        held.release();
    };
    vm.while_in_flight(command, release).await?;
    check!(waited.get(), "the command did not wait for the write");
    Ok(())
}
