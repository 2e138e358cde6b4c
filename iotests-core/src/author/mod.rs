//! The API for writing cases.

pub mod action;
pub mod assert;
mod content;
mod death;
mod expect;
mod failure;
pub mod files;
pub mod filter;
pub mod golden;
pub mod hang;
mod image;
pub mod log;
mod machine;
#[cfg(test)]
pub(crate) mod mocked;
mod nbd;
pub(crate) mod origin;
mod serve;
mod session;
mod shared;
mod stack;
mod state;
mod storage;
mod test;
mod tls;
mod tool;

pub use content::{CLUSTER, Content, clusters};
pub use expect::{ErrorText, either, exactly};
pub use failure::{CaseResult, Context, Difference, Failure};
pub use files::TestFile;
pub use image::{
    FileBytes, Image, ImageBuilder, ImageOpener, ImgCall, KEY, KEY_ID, Layer, NO_CPU_TIME,
};
pub use machine::{
    Access, Bitmap, BitmapInfo, BlockNode, Change, Channel, Child, Cmd, Destination, Disk,
    DiskBuilder, Drive, Ended, Ending, Export, ExportBuilder, Freeze, Frozen, Held, Job,
    JobBuilder, Keeper, Machine, MachineBuilder, MachineNbd, Migrated, Migrating, Migration,
    NbdSetup, NewBitmap, Node, Outcome, Run, Target, Transaction, assert_json_filename,
    dirty_ranges,
};
pub use nbd::{NbdServer, NbdServerBuilder, NbdSource, StoppedNbdServer};
pub use session::IoSession;
pub use state::State;
pub use storage::{Request, Storage};
pub use test::{Sink, Test};
pub use tls::Tls;
pub use tool::ToolCall;
