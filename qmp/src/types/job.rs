//! Jobs of any kind.

use super::enums::{JobStatus, JobType};
use crate::command::Empty;

qapi_struct! {
    /// A job.
    JobInfo {
        /// Its id.
        id: String,
        /// What it does.
        kind = "type": JobType,
        /// Its state.
        status: JobStatus,
        /// How much is done, in the job's own unit.
        current_progress: i64,
        /// How much there is to do; an estimate that may grow.
        total_progress: i64,
    }
    optional {
        /// Why it failed.
        error: String,
    }
}

qapi_commands! {
    /// Lists the jobs.
    "query-jobs" [] QueryJobs -> Vec<JobInfo> {}

    /// Pauses a job.
    "job-pause" [] JobPause -> Empty {
        /// Its id.
        id: String,
    }

    /// Lets a job go on.
    "job-resume" [] JobResume -> Empty {
        /// Its id.
        id: String,
    }

    /// Cancels a job.
    "job-cancel" [] JobCancel -> Empty {
        /// Its id.
        id: String,
    }

    /// Completes a job that is ready.
    "job-complete" [] JobComplete -> Empty {
        /// Its id.
        id: String,
    }

    /// Lets a job that is pending make its changes.
    "job-finalize" [] JobFinalize -> Empty {
        /// Its id.
        id: String,
    }

    /// Removes a job that is concluded.
    "job-dismiss" [] JobDismiss -> Empty {
        /// Its id.
        id: String,
    }
}
