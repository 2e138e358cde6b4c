//! The runner's self-tests: the real program runs misbehaving cases, and is compared with a model
//! of their verdicts.

mod agree;
mod bench;
mod campaign;
mod config;
mod death;
mod debugging;
mod input;
mod model;
mod page;
mod parts;
mod reports;
mod selection;
mod since;
mod truth;
mod upstream;
mod verdicts;
mod ways;
