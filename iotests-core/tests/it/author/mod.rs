//! The author's side against a real QEMU.

mod bench;
mod content;
mod examples;
mod guide;
mod hang;
mod house;
mod images;
mod jobs;
mod machines;
mod nbd;
mod nouns;
mod open;
mod parts;
mod skeleton;
mod tools;
mod verdicts;
