//! The runner's self-tests: the real program with misbehaving cases, against a model of what each must yield.

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
