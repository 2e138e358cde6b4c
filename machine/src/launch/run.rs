//! The steps of a launch, in order.

use super::failure::{end, failed, not_started};
use super::monitor::{NotReady, connect};
use super::prepare::{Prepared, prepare};
use crate::builder::{Builder, Kind};
use crate::console::Console;
use crate::diagnose::Diagnoser;
use crate::error::LaunchError;
use crate::machine::{Machine, Parts};
use crate::qtest::Qtest;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

pub(super) async fn launch<K: Kind>(builder: &Builder<K>) -> Result<Machine, LaunchError> {
    let common = &builder.common;
    let mut deadlines = common.deadlines;
    if let Some(wrapper) = &common.wrapper {
        deadlines = deadlines.scaled(wrapper.slowdown());
    }
    let Prepared {
        command,
        monitor,
        console,
        qtest,
        cleanup,
    } = prepare(builder)?;
    let descriptor = |what: &str| {
        let (name, what) = (common.name.clone(), what.to_owned());
        move |source| LaunchError::Descriptor { name, what, source }
    };
    let started = SystemTime::now();
    let begun = Instant::now();
    let child = command.spawn_async().await.map_err(|e| not_started(common, e))?;
    let child = Arc::new(child);
    tracing::debug!(name = common.name, pid = child.pid(), command = %child.command(), "started");
    // The deadline covers the whole launch. The client has none of its own: if we are delayed, both
    // could pass before we check, and the wrong one would be reported.
    let mut options = qmp::Options::default()
        .connect_deadline(Duration::MAX)
        .call_deadline(deadlines.command)
        .peer_pid(child.pid())
        .endpoint(&common.name);
    if let Some(record) = common.record.clone() {
        options = options.record(move |entry| (record.0)(entry));
    }
    if let Some(events) = common.cached_events {
        options = options.cache_events(events);
    }
    let ready = tokio::time::timeout(deadlines.launch, async {
        tokio::select! {
            biased;
            client = connect(monitor, options) => client,
            _ = child.exited() => Err(NotReady::Exited),
        }
    });
    let client = match ready.await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return Err(failed(common, &child, deadlines.terminate, error).await),
        Err(_) => {
            let diagnosis = Diagnoser::new(&common.name, &child, None, deadlines).collect().await;
            let output = end(common, &child).await?;
            return Err(LaunchError::TimedOut {
                name: common.name.clone(),
                deadline: deadlines.launch,
                output,
                diagnosis: Box::new(diagnosis),
            });
        }
    };
    let wrapper = common.wrapper.as_ref();
    let report_file = wrapper.and_then(|w| w.report_file(child.pid()));
    tracing::debug!(name = common.name, pid = child.pid(), elapsed = ?begun.elapsed(), "ready");
    let qtest = qtest.map(|stream| Qtest::new(stream, deadlines.command)).transpose();
    let console = console.map(Console::new).transpose();
    Ok(Machine::new(Parts {
        program: K::PROGRAM,
        name: common.name.clone(),
        child,
        qmp: client,
        qtest: qtest.map_err(descriptor("the qtest connection"))?,
        console: console.map_err(descriptor("the console"))?,
        deadlines,
        expected: Mutex::new(common.expected.clone()),
        findings_are_errors: common.findings_are_errors,
        started,
        current_dir: common.current_dir.clone(),
        report_file,
        on_drop: common.on_drop.clone(),
        _cleanup: cleanup,
    }))
}
