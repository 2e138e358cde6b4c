//! What a case is written with.

pub mod action;
pub mod assert;
mod bitmap;
mod content;
mod death;
mod expect;
mod export;
mod failure;
pub mod files;
pub mod filter;
pub mod golden;
mod graph;
pub mod hang;
mod image;
mod job;
pub mod log;
mod machine;
mod migration;
#[cfg(test)]
mod mocked;
mod nbd;
mod serve;
mod session;
mod shared;
pub mod skeleton;
mod stack;
mod state;
mod storage;
mod test;
mod tool;

pub use bitmap::{Bitmap, dirty_ranges};
pub use content::{CLUSTER, Content, clusters};
pub use expect::{ErrorText, exactly};
pub use export::MachineNbd;
pub use failure::{CaseResult, Context, Difference, Failure};
pub use graph::{assert_json_filename, flatten, to_opts};
pub use image::{FileBytes, Image, ImageBuilder, KEY, KEY_ID, Layer, NO_CPU_TIME};
pub use job::{Ended, Ending, Job, JobBuilder, Outcome, Run, Transaction};
pub use machine::{Cmd, Drive, Held, Machine, MachineBuilder, Target};
pub use nbd::{NbdServer, NbdServerBuilder, StoppedNbdServer};
pub use session::IoSession;
pub use state::{NodeStorage, State};
pub use storage::Storage;
pub use test::{Sink, Test};
pub use tool::ToolCall;
