//! Reporters: each turns the one stream of events into something for a person or a machine.

mod failure;
mod html;
mod jsonl;
mod junit;
mod palette;
mod summary;
mod tap;
mod terminal;
pub(crate) mod text;

use std::io;

use super::event::RunEvent;

pub(crate) use html::Html;
pub(crate) use jsonl::JsonLines;
pub(crate) use junit::Junit;
pub(crate) use palette::Palette;
pub(crate) use summary::Ways;
pub(crate) use tap::Tap;
pub(crate) use terminal::Terminal;

/// Something that is told every event, in order.
pub(crate) trait Reporter {
    /// One thing happened.
    fn event(&mut self, event: &RunEvent) -> io::Result<()>;
}
