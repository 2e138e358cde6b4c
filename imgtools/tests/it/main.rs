//! The crate from the outside: real processes, real tools.

mod cut;
mod documents;
mod errors;
mod exit_codes;
mod kinds;
mod names;
mod probe;
mod process;
mod progress;
mod qcow2;
mod secrets;
mod session;
mod support;
mod tools;
