//! Tests on real binaries, in one program because linking is what costs.
//!
//! Tools are those on PATH and those under the folders of `QEMU_TEST_PREFIXES` (separated by
//! colons, each with `bin/`); without that variable, those under `target/qemu/*/`.

mod attach;
mod bad_input;
mod cycles;
mod diagnose;
mod end;
mod guest;
mod host;
mod killed_harness;
mod launch;
mod migration;
mod modes;
mod names;
mod probe;
mod talk;
mod tools;
mod wrappers;
