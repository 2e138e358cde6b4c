//! Block jobs: backup, commit, mirror, stream, and what they have in common.

use iotests_core::prelude::*;

defaults! { groups = [RW, JOB], host = Any }

mod commit;
mod lifecycle;
mod mirror_cancel;
