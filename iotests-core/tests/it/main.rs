//! Integration tests, in one binary.

mod author;
mod runner;
mod script;
