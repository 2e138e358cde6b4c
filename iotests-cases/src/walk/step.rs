//! The steps of a program: what is done, with all names and numbers.

use std::ops::Range;

use iotests_core::prelude::*;

use super::model::Shape;

/// One request of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Io {
    pub(super) kind: IoKind,
    pub(super) range: Range<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IoKind {
    Write(u8),
    Zero,
    /// Zeroes whose clusters may go.
    Unmap,
    Discard,
    Flush,
}

/// How a job is brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Complete,
    Cancel,
}

/// How a job goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Job {
    /// What the guest does while the job is held in its middle by its speed.
    pub(super) held: Vec<Io>,
    /// What is done then, from its start to its end: a change of a bitmap, or a stream of other layers.
    pub(super) beside: Option<Box<Step>>,
    /// What the guest does when the job is ready to be completed.
    pub(super) ready: Vec<Io>,
    pub(super) becomes_ready: bool,
    pub(super) end: End,
    /// Then the guest does nothing, and the job completes, at the second attempt if it fails.
    pub(super) fault: Option<Fault>,
}

impl Job {
    pub(super) fn is_held(&self) -> bool {
        !self.held.is_empty() || self.beside.is_some() || self.is_cancelled_early()
    }

    /// Before it was ready, or done.
    pub(super) fn is_cancelled_early(&self) -> bool {
        self.end == End::Cancel && !self.waits_ready()
    }

    pub(super) fn waits_ready(&self) -> bool {
        self.becomes_ready && !self.ready.is_empty()
    }
}

/// The first request on the file of a node fails that comes after this event of blkdebug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) node: String,
    pub(super) event: &'static str,
    /// What a job does about it.
    pub(super) policy: &'static str,
}

impl Fault {
    /// Of the node that it is, between the other one and its file.
    pub(super) fn name(&self) -> String {
        format!("{}-fault", self.node)
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Io(Io),
    /// By a second client of the same node, all at once; they do not overlap.
    Together(Vec<Io>),
    /// It may fail, and is tried again.
    Broken(Io, Fault),
    Snapshot {
        node: String,
        overlay: String,
        shape: Shape,
    },
    Commit {
        top: String,
        base: String,
        job: Job,
    },
    Stream {
        top: String,
        base: Option<String>,
        job: Job,
    },
    /// To an image that is made for it; completed, the disk goes on with that.
    Mirror {
        target: String,
        shape: Shape,
        /// What stays below the copy, if not all is copied.
        below: Option<String>,
        mode: &'static str,
        granularity: u64,
        job: Job,
    },
    /// To an image that is made for it.
    Backup {
        target: String,
        shape: Shape,
        what: Part,
        compressed: bool,
        job: Job,
    },
    Bitmap {
        node: String,
        name: String,
        change: Change,
    },
    /// All of it, or nothing where one action is refused.
    Transaction {
        node: String,
        actions: Vec<Action>,
    },
    Resize {
        size: u64,
    },
    Reopen {
        node: String,
        how: Reopening,
        /// What the guest does meanwhile.
        ios: Vec<Io>,
    },
    /// While the guest does this, the disk is kept as it was.
    Frozen(Vec<Io>),
    /// The machine ends, and another one has the same images.
    Restart {
        /// Between the two, the active image keeps itself as an internal snapshot of this name.
        inside: Option<String>,
    },
    Refused(Refusal),
}

/// How much a mirror has in flight: with more, all of a small image is copied before the speed holds the job.
pub(super) const BUFFER: u64 = 64 * KIB;

/// What of a disk a backup copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    All,
    /// What is dirty in this bitmap.
    Dirty {
        bitmap: String,
        mode: &'static str,
    },
}

/// An action of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Bitmap(String, Change),
    Snapshot {
        overlay: String,
        shape: Shape,
    },
    /// It is refused, so that the others are undone.
    Refused {
        kind: &'static str,
        data: Value,
        says: &'static str,
    },
}

impl Action {
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Action::Refused { .. })
    }
}

/// What is another one for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reopening {
    /// An option of the node.
    Option(&'static str, Value),
    /// There is a filter between it and its backing node.
    Filter,
    /// There is a filter between it and its file.
    FileFilter,
    /// It can be written to.
    Writable,
}

/// What happens to a bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add {
        granularity: u64,
        persistent: bool,
        disabled: bool,
    },
    Clear,
    Enable,
    Disable,
    Remove,
    /// Of these names, on the same node.
    Merge(Vec<String>),
    /// Of another node.
    MergeFrom {
        node: String,
        bitmap: String,
    },
}

/// A command that must be refused, without any effect.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) command: &'static str,
    pub(super) arguments: Value,
    pub(super) says: &'static str,
}

impl Step {
    /// The image that this step needs, to be made beforehand; with what it records as its backing image.
    pub(super) fn image(&self) -> Option<(&str, &Shape, Option<&str>)> {
        match self {
            Step::Snapshot {
                node,
                overlay,
                shape,
            } => Some((overlay, shape, Some(node))),
            Step::Mirror {
                target,
                shape,
                below,
                ..
            } => Some((target, shape, below.as_deref())),
            Step::Backup { target, shape, .. } => Some((target, shape, None)),
            Step::Transaction { node, actions } => actions.iter().find_map(|action| match action {
                Action::Snapshot { overlay, shape } => {
                    Some((overlay.as_str(), shape, Some(node.as_str())))
                }
                _ => None,
            }),
            _ => None,
        }
    }

    pub(super) fn has_fault(&self) -> bool {
        let of_job = self.job().is_some_and(|job| job.fault.is_some());
        of_job || matches!(self, Step::Broken(..))
    }

    /// The job that it is.
    pub(super) fn job(&self) -> Option<&Job> {
        match self {
            Step::Commit { job, .. }
            | Step::Stream { job, .. }
            | Step::Mirror { job, .. }
            | Step::Backup { job, .. } => Some(job),
            _ => None,
        }
    }

    /// What is done while its job is held.
    #[cfg(test)]
    pub(super) fn beside(&self) -> Option<&Step> {
        self.job()?.beside.as_deref()
    }

    pub(super) fn job_mut(&mut self) -> Option<&mut Job> {
        match self {
            Step::Commit { job, .. }
            | Step::Stream { job, .. }
            | Step::Mirror { job, .. }
            | Step::Backup { job, .. } => Some(job),
            _ => None,
        }
    }

    /// Whether each layer can be read while its job runs, and reads as before.
    pub(super) fn leaves_layers_alone(&self) -> bool {
        matches!(self, Step::Mirror { .. } | Step::Backup { .. })
    }

    /// What its job calls what it does about errors.
    pub(super) fn policies(&self) -> &'static [&'static str] {
        match self {
            Step::Commit { .. } | Step::Stream { .. } => &["on-error"],
            _ => &["on-source-error", "on-target-error"],
        }
    }
}
