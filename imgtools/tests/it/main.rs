//! The crate from the outside: real processes, real tools.

mod documents;
mod exit_codes;
mod probe;
mod process;
mod qcow2;
mod secrets;
mod session;
mod support;
mod tools;
