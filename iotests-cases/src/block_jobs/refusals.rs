//! What must be refused: jobs that cannot start, and what would spoil one that runs.

use iotests_core::prelude::*;

use super::chain::Chain;

/// A job that must not start.
pub(super) struct Refusal {
    /// What is asked for. Here and in the text, `{base}`, `{mid}` and `{top}` stand for the names of the
    /// files.
    pub(super) arguments: &'static [(&'static str, &'static str)],
    pub(super) text: &'static str,
}

impl Refusal {
    /// The job is refused, and the machine is as it was. `names` are those of the files of base, mid
    /// and top.
    pub(super) async fn assert(&self, mut job: JobBuilder, names: [&str; 3]) -> CaseResult {
        let [base, mid, top] = names;
        let expand = |text: &str| {
            let text = text.replace("{base}", base).replace("{mid}", mid);
            text.replace("{top}", top)
        };
        for (name, value) in self.arguments {
            job = job.set(name, expand(value));
        }
        job.refused(expand(self.text)).await
    }
}

/// Something that would spoil a job that runs.
pub(super) struct Attempt {
    pub(super) command: &'static str,
    pub(super) arguments: fn(&Chain) -> Value,
    /// Why it is refused.
    pub(super) error: &'static str,
}

impl Attempt {
    /// It is refused, and the graph and the exports are as they were: there are none of these.
    pub(super) async fn assert_refused(&self, vm: &Machine, chain: &Chain) -> CaseResult {
        let before = vm.state().await?;
        let attempt = vm.cmd(self.command, (self.arguments)(chain));
        let error = refused_with(self.command, self.error);
        attempt.expect_error(error).await?;
        vm.assert_same_graph_as(&before).await?;
        check!(vm.exports().await? == [""; 0]);
        Ok(())
    }
}

/// The text that a command is refused with. Before 9.0, `block_resize` named the drive that a node does not
/// have, and not the job.
pub(super) fn refused_with(command: &str, error: &'static str) -> ErrorText {
    match command {
        "block_resize" => either(error, "Device '(null)' is in use"),
        _ => error.into(),
    }
}
