//! Block jobs: backup, commit, mirror, stream, and what they have in common.

mod commit;
mod lifecycle;
mod mirror_cancel;
