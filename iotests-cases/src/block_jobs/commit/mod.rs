//! `block-commit`: data of upper layers moves into lower ones.
//!
//! The upstream test is 040.

mod backing_files;
mod chain;
mod completed;
mod errors;
mod filters;
mod interrupted;
mod others;
mod refused;
