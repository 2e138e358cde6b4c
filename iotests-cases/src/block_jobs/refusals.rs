//! What must be refused: jobs that cannot start, and what would spoil one that runs.

use iotests_core::prelude::*;

use super::chain::Chain;

/// A job that must not start.
pub(super) struct Refusal {
    /// What is asked for. `{base}`, `{mid}` and `{top}` stand for the names of the files.
    pub(super) arguments: &'static [(&'static str, &'static str)],
    pub(super) class: &'static str,
    pub(super) text: &'static str,
}

impl Refusal {
    pub(super) const fn new(
        arguments: &'static [(&'static str, &'static str)],
        text: &'static str,
    ) -> Self {
        Refusal {
            arguments,
            class: "GenericError",
            text,
        }
    }

    /// A text with the names of the files of base, mid and top.
    pub(super) fn expand(text: &str, names: [&str; 3]) -> String {
        let [base, mid, top] = names;
        let text = text.replace("{base}", base).replace("{mid}", mid);
        text.replace("{top}", top)
    }

    /// The job is refused, and the machine is as it was. `names` are those of the files of base, mid
    /// and top.
    pub(super) async fn assert(&self, mut job: JobBuilder, names: [&str; 3]) -> CaseResult {
        for (name, value) in self.arguments {
            job = job.set(name, Self::expand(value, names));
        }
        job.refused_class(self.class, &*Self::expand(self.text, names))
            .await
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
        attempt.expect_error(self.error).await?;
        vm.assert_same_graph_as(&before).await?;
        check!(vm.exports().await? == [""; 0]);
        Ok(())
    }
}
