//! The `iotests` binary: the runner, and all cases.

use std::process::ExitCode;

// The cases register themselves; this line is what links them.
use iotests_cases as _;

fn main() -> ExitCode {
    iotests_core::runner::main()
}
