//! Dirty bitmaps.

use iotests_core::prelude::*;

mod merged;
mod persistent;
mod refused;

rows! {
    /// Whether a command is an action of a transaction.
    WAYS: bool;
    "by-itself" => false;
    "in-a-transaction" => true;
}

/// Changes a bitmap by a command, or by a transaction of that alone.
async fn change(vm: &Machine, command: &str, data: Value, in_transaction: bool) -> CaseResult {
    if in_transaction {
        let [] = vm.transaction().action(command, data).start().await?;
    } else {
        vm.cmd(command, data).await?;
    }
    Ok(())
}
