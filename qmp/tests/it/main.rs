//! Integration tests of the client, in one binary.

mod agent;
mod calls;
mod connecting;
mod events;
mod examples;
mod facade;
mod facts_check;
mod fuzz;
mod hostile;
mod jobs;
mod leaks;
mod mock;
mod own_event;
mod peer;
mod qemu;
mod real;
mod resume;
mod session;
mod shell;
mod spans;
mod types;
