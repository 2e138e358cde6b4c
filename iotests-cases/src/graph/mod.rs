//! The block graph: which node stands on which, and how that changes while they are in use.

use iotests_core::prelude::*;

defaults! { groups = [RW] }

mod children;
mod reopen;
mod transaction;
