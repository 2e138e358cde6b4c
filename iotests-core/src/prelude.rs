//! Everything that a case needs: `use iotests_core::prelude::*;`.

pub use iotests_macros::{case, defaults, rows};
pub use qmp::Matcher;
pub use serde_json::{Value, json};

pub use crate::author::assert::{AssertJson, any_of};
pub use crate::author::log::{Entry, Narration};
pub use crate::author::{
    CLUSTER, CaseResult, Channel, Content, Context, Destination, Disk, Drive, Ended, ErrorText,
    Export, Failure, FileBytes, Image, Job, JobBuilder, Machine, Node, Outcome, State, Storage,
    Target, Test, clusters, either, exactly,
};
pub use crate::case::Row;
pub use crate::case::names::*;
pub use crate::check;
