//! The probes: trial launches, QMP queries, help texts.

use super::data::{AccelTrial, Capabilities, MachineType};
use super::help;
use crate::accel::Accel;
use crate::builder::{Qemu, StorageDaemon};
use crate::deadlines::Deadlines;
use crate::end::EndError;
use crate::error::LaunchError;
use crate::machine::Machine;
use imgtools::process::{Output, ProcessError, Status};
use imgtools::tools::{Tool, ToolKind, Version};
use qmp::types::{MachineInfo, QueryCommands, QueryMachines, QueryTarget};
use qmp::{Command, Schema};
use serde_json::Value;

/// Why a binary could not be probed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// It is neither an emulator nor a storage daemon.
    #[error("failed to probe {}: {kind} has no monitor to be asked by", path.display())]
    Kind {
        /// The binary.
        path: std::path::PathBuf,
        /// What it is.
        kind: ToolKind,
    },
    /// No accelerator works, so the emulator cannot be launched at all.
    #[error("failed to probe {}: no accelerator works ({}){}", path.display(), list(trials), end(last.as_deref()))]
    NoAccelerator {
        /// The binary.
        path: std::path::PathBuf,
        /// What was tried.
        trials: Vec<AccelTrial>,
        /// How the last trial ended.
        last: Option<Box<Output>>,
    },
    /// It could not be launched.
    #[error("failed to launch a program for a probe")]
    Launch(#[from] LaunchError),
    /// A help text could not be obtained.
    #[error("failed to ask a program for help")]
    Help(#[from] ProcessError),
    /// A query was refused.
    #[error("failed to ask {machine} by {command}")]
    Query {
        /// The program.
        machine: String,
        /// The QMP command.
        command: &'static str,
        /// Why.
        source: Box<qmp::Error>,
    },
    /// Its schema does not have QMP's form.
    #[error("failed to understand the schema of {machine}")]
    Schema {
        /// The program.
        machine: String,
        /// Why.
        source: qmp::decode::DecodeError,
    },
    /// It did not exit cleanly.
    #[error("failed to end a program after a probe")]
    End(#[from] EndError),
}

/// Command, status and output of a trial.
fn end(last: Option<&Output>) -> String {
    last.map_or_else(String::new, |output| {
        let (status, command) = (&output.status, &output.command);
        format!("\n  it {status}\n  command: {command}{}", output.tail())
    })
}

fn list(trials: &[AccelTrial]) -> String {
    let each = |t: &AccelTrial| format!("{}: {}", t.accel, t.refused.as_deref().unwrap_or("works"));
    trials.iter().map(each).collect::<Vec<_>>().join("; ")
}

/// The result of a probe.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Probed {
    /// The binary's capabilities.
    pub capabilities: Capabilities,
    /// The answer to `query-qmp-schema`, some 200 KiB as text.
    pub schema: Value,
}

/// Probes a binary's capabilities.
///
/// # Errors
/// See [`ProbeError`].
pub async fn probe(tool: &Tool, deadlines: Deadlines) -> Result<Probed, ProbeError> {
    match tool.kind {
        ToolKind::System => emulator(tool, deadlines).await,
        ToolKind::StorageDaemon => {
            let daemon = StorageDaemon::builder(tool.clone()).deadlines(deadlines).launch().await?;
            let (capabilities, schema) = common(&daemon).await?;
            daemon.shutdown().await?;
            Ok(Probed {
                capabilities,
                schema,
            })
        }
        kind => Err(ProbeError::Kind {
            path: tool.path.clone(),
            kind,
        }),
    }
}

async fn emulator(tool: &Tool, deadlines: Deadlines) -> Result<Probed, ProbeError> {
    let help = async |args: &[&str]| -> Result<String, ProcessError> {
        let command = tool.command().args(args).deadline(deadlines.launch);
        Ok(command.run().await?.check()?.captured.stdout_text().into_owned())
    };
    let mut last_refusal = None;
    // qtest is never listed, on purpose, so it is tried anyway.
    let mut names = vec!["qtest".to_owned()];
    let listed = help::accelerators(&help(&["-accel", "help"]).await?);
    names.extend(listed.into_iter().filter(|name| name != "qtest"));

    let mut trials = Vec::new();
    let mut machine = None;
    for name in names {
        let accel = Accel::from(name);
        let builder = Qemu::builder(tool.clone())
            .name(format!("trial of {accel}"))
            .deadlines(deadlines)
            .accel(accel.clone())
            .machine("none")
            .paused(true);
        let refused = match builder.launch().await {
            Ok(trial) => {
                if let Some(last) = machine.replace(trial) {
                    last.shutdown().await?;
                }
                None
            }
            Err(LaunchError::Exited { output, .. }) => {
                let why = reason(output.status, &output.captured.stderr_text());
                last_refusal = Some(output);
                Some(why)
            }
            // Only QEMU's own refusal is an answer about the accelerator.
            Err(error) => return Err(error.into()),
        };
        trials.push(AccelTrial { accel, refused });
    }
    let Some(machine) = machine else {
        return Err(ProbeError::NoAccelerator {
            path: tool.path.clone(),
            trials,
            last: last_refusal,
        });
    };

    let (mut capabilities, schema) = common(&machine).await?;
    let target = query(&machine, QueryTarget::new()).await?;
    let machines = query(&machine, QueryMachines::new()).await?;
    machine.shutdown().await?;
    capabilities.target = Some(target.arch.as_str().to_owned());
    capabilities.accelerators = trials;
    capabilities.machines = machines.into_iter().map(MachineType::from).collect();
    capabilities.devices = help::devices(&help(&["-machine", "none", "-device", "help"]).await?);
    capabilities.formats = help::formats(&help(&["-drive", "format=help"]).await?);
    Ok(Probed {
        capabilities,
        schema,
    })
}

/// QEMU's error line, without the program's name; or how it exited, if that says more.
fn reason(status: Status, stderr: &str) -> String {
    let line = stderr.lines().rev().find(|l| !l.trim().is_empty());
    let line = line.map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest));
    match (status, line) {
        (Status::Exited(_), Some(line)) => line.to_owned(),
        (_, Some(line)) => format!("it {status}: {line}"),
        (_, None) => format!("it {status} without output"),
    }
}

/// The queries that both kinds of process answer.
async fn common(machine: &Machine) -> Result<(Capabilities, Value), ProbeError> {
    let version = machine.qmp().greeting().version.clone();
    let commands = query(machine, QueryCommands::new()).await?;
    let (schema, text) = schema(machine).await?;
    // Our paths are well-formed, and a missing place has no values.
    let values = |path| {
        let values = schema.values(path).unwrap_or_default();
        sorted(values.into_iter().map(str::to_owned).collect())
    };
    let capabilities = Capabilities {
        program: machine.program(),
        version: Version::new(version.major, version.minor, version.micro),
        package: version.package,
        target: None,
        accelerators: Vec::new(),
        machines: Vec::new(),
        devices: Vec::new(),
        formats: None,
        drivers: values("blockdev-add/arg-type/driver"),
        commands: sorted(commands.into_iter().map(|c| c.name).collect()),
        objects: values("object-add/arg-type/qom-type"),
        exports: values("block-export-add/arg-type/type"),
    };
    Ok((capabilities, text))
}

/// Both parsed, for queries, and raw, for storage.
async fn schema(machine: &Machine) -> Result<(Schema, Value), ProbeError> {
    let command = "query-qmp-schema";
    let failed = |source| ProbeError::Query {
        machine: machine.command_line().to_string(),
        command,
        source: Box::new(source),
    };
    let text = machine.qmp().execute(command, ()).await.map_err(failed)?;
    let schema = Schema::parse(&text).map_err(|source| ProbeError::Schema {
        machine: machine.command_line().to_string(),
        source,
    })?;
    Ok((schema, text))
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

async fn query<C: Command>(machine: &Machine, command: C) -> Result<C::Return, ProbeError> {
    let answer = machine.qmp().call(command).await;
    answer.map_err(|error| ProbeError::Query {
        machine: machine.command_line().to_string(),
        command: C::NAME,
        source: Box::new(error),
    })
}

impl From<MachineInfo> for MachineType {
    fn from(info: MachineInfo) -> Self {
        MachineType {
            default: info.is_default == Some(true),
            name: info.name,
            alias: info.alias,
            deprecated: info.deprecated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_given_in_qemus_words() {
        let stderr = "qemu-system-x86_64: -accel qtest: invalid accelerator qtest\n\n";
        let refused = Status::Exited(1);
        assert_eq!(
            reason(refused, stderr),
            "-accel qtest: invalid accelerator qtest"
        );
        assert_eq!(
            reason(refused, ""),
            "it exited with status 1 without output"
        );
        let crash = Status::Signaled {
            signal: 6,
            core: false,
        };
        assert_eq!(
            reason(crash, "qemu: x"),
            "it was killed by signal 6 (SIGABRT): x"
        );
    }
}
