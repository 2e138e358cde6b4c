//! Jobs that wait because of their speed, and are woken before their time.

use iotests_core::prelude::*;

use crate::json::number;

/// How often a job is woken.
const TIMES: usize = 8;

/// See [`assert_not_hurried`], whose text it has.
pub(super) const HURRIED: KnownBug = known(
    "a drain wakes a job, which then does one step more than its speed allows (018e5987b5)",
    "more than its speed allows",
    before(8, 1),
);

/// A job that waits because of its speed, and is woken by whatever drains all nodes, does nothing more for it.
pub(super) async fn assert_not_hurried(vm: &Machine, job: &Job) -> CaseResult {
    let done = number(&job.info().await?, "current-progress")?;
    let wakes = json!({"id": job.id(), "status": "paused"});
    let wakes = Matcher::event("JOB_STATUS_CHANGE").data(wakes);
    vm.take_events(wakes.clone());
    for _ in 0..TIMES {
        // Even one that does nothing begins with a drain.
        vm.cmd("transaction", json!({"actions": []})).await?;
        check!(
            vm.take_events(wakes.clone()).len() == 1,
            "how often it was woken"
        );
        // What it did before would be done by the next drain.
        let now = number(&job.info().await?, "current-progress")?;
        check!(now == done, "more than its speed allows");
    }
    Ok(())
}
