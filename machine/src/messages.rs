//! Tests the message of each error of this crate.

use crate::accel::{Mode, NoPlan};
use crate::args::PathError;
use crate::diagnose::Diagnosis;
use crate::end::{EndError, Exit, Expected};
use crate::evidence::{Finding, FindingKind};
use crate::guest::{MigrationError, SnapshotAction, SnapshotError, UnplugError};
use crate::host::{HmpError, IoError, IoTarget, NoSuchPath};
use crate::probe::ProbeError;
use crate::qtest::{LineError, QtestError};
use crate::{AttachError, BuildError, ConsoleError, DetachedEndError, LaunchError, StartFailure};
use imgtools::process::{Command, CommandLine, Output, ProcessError, Signal};
use imgtools::tools::ToolKind;
use qmp::{JobOutcome, RecvError};
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// The text of each source, which must not appear in the message above it.
const CAUSE: &str = "the cause of it all";

fn s(text: &str) -> String {
    text.to_owned()
}

fn io() -> io::Error {
    io::Error::other(CAUSE)
}

fn qmp() -> Box<qmp::Error> {
    Box::new(qmp::Error::Timeout {
        task: s(CAUSE),
        after: SECOND,
    })
}

fn recv() -> RecvError {
    RecvError::Panicked(s(CAUSE))
}

fn output() -> Box<Output> {
    Box::new(Command::new("true").run_blocking().unwrap())
}

fn command() -> Box<CommandLine> {
    Box::new(output().command)
}

fn process() -> Box<ProcessError> {
    Box::new(Command::new("/the cause of it all").run_blocking().unwrap_err())
}

fn diagnosis() -> Box<Diagnosis> {
    Box::new(Diagnosis {
        name: s("vm"),
        pid: 1,
        command: s("qemu"),
        ended: None,
        processes: Vec::new(),
        qmp: Vec::new(),
        transcript: Vec::new(),
        backtraces: Vec::new(),
        log_tail: String::new(),
        took: SECOND,
    })
}

fn exit() -> Box<Exit> {
    let finding = Finding {
        kind: FindingKind::Assertion,
        summary: s("x: Assertion `y' failed."),
        text: String::new(),
    };
    Box::new(Exit {
        name: s("vm"),
        output: *output(),
        stages: Vec::new(),
        findings: vec![finding],
        core: None,
        diagnosis: None,
    })
}

/// One error of each kind, with what its message has to name.
fn all() -> Vec<(Box<dyn Error>, &'static str)> {
    let mut all: Vec<(Box<dyn Error>, &'static str)> = Vec::new();
    fn add<E: Error + 'static>(
        all: &mut Vec<(Box<dyn Error>, &'static str)>,
        names: &'static str,
        errors: impl IntoIterator<Item = E>,
    ) {
        all.extend(errors.into_iter().map(|error| (Box::new(error) as Box<dyn Error>, names)));
    }
    let (vm, path, request) = (s("vm"), PathBuf::from("/a/file"), s("outb 0x1 0x2"));
    add(
        &mut all,
        "/a/file",
        [BuildError::SocketName { path: path.clone() }],
    );
    add(
        &mut all,
        "a word",
        [
            BuildError::Descriptor {
                what: s("a word"),
                source: io(),
            },
            BuildError::NulByte { word: s("a word") },
        ],
    );
    add(
        &mut all,
        "vm",
        [
            LaunchError::Build {
                name: vm.clone(),
                source: Arc::new(BuildError::NulByte { word: s(CAUSE) }),
            },
            LaunchError::Descriptor {
                name: vm.clone(),
                what: s("a socket"),
                source: io(),
            },
            LaunchError::Exited {
                name: vm.clone(),
                output: output(),
            },
            LaunchError::Monitor {
                name: vm.clone(),
                output: output(),
                source: qmp(),
            },
            LaunchError::TimedOut {
                name: vm.clone(),
                deadline: SECOND,
                output: output(),
                diagnosis: diagnosis(),
            },
            LaunchError::Lost {
                name: vm.clone(),
                command: command(),
                source: process(),
            },
        ],
    );
    let why = [
        StartFailure::Missing,
        StartFailure::Directory,
        StartFailure::NotExecutable,
        StartFailure::WorkingDirectory,
        StartFailure::WrongFormat,
        StartFailure::Resources,
        StartFailure::Other,
    ];
    let program = path.clone();
    add(
        &mut all,
        "/a/file",
        why.map(|why| LaunchError::NotStarted {
            program: program.clone(),
            why,
            source: Some(process()),
        }),
    );
    let no_plan = NoPlan {
        mode: Mode::VirtualClock,
        reason: s("no qtest"),
    };
    add(&mut all, "no qtest", [LaunchError::Mode(no_plan)]);
    add(&mut all, "/a/file", [PathError { path: path.clone() }]);
    add(
        &mut all,
        "/a/file",
        [
            AttachError::Connect {
                path: path.clone(),
                source: io(),
            },
            AttachError::Process {
                path: path.clone(),
                source: io(),
            },
            AttachError::Monitor {
                path: path.clone(),
                source: qmp(),
            },
        ],
    );
    add(
        &mut all,
        "4711",
        [
            DetachedEndError::Escalated {
                pid: 4711,
                signal: Signal::SIGTERM,
                reason: s("it was deaf"),
            },
            DetachedEndError::Process {
                pid: 4711,
                source: io(),
            },
        ],
    );
    add(
        &mut all,
        "vm",
        [
            EndError::Status {
                expected: Expected::code(1),
                exit: exit(),
            },
            EndError::Escalated(exit()),
            EndError::Findings(exit()),
            EndError::Lost {
                name: vm.clone(),
                source: process(),
            },
        ],
    );
    add(
        &mut all,
        "migrat",
        [
            MigrationError::Failed {
                name: vm.clone(),
                reason: s("no route"),
            },
            MigrationError::Cancelled { name: vm.clone() },
            MigrationError::Qmp {
                name: vm.clone(),
                doing: "begin the migration",
                source: qmp(),
            },
            MigrationError::Socket(io()),
            MigrationError::Lost {
                name: vm.clone(),
                source: recv(),
            },
        ],
    );
    let (action, tag) = (SnapshotAction::Delete, s("s"));
    add(
        &mut all,
        "delete the snapshot \"s\" of vm",
        [
            SnapshotError::Qmp {
                name: vm.clone(),
                action,
                tag: tag.clone(),
                source: qmp(),
            },
            SnapshotError::Job {
                name: vm.clone(),
                action,
                tag,
                outcome: JobOutcome::Cancelled,
            },
        ],
    );
    let id = s("disk0");
    add(
        &mut all,
        "\"disk0\" of vm",
        [
            UnplugError::Qmp {
                name: vm.clone(),
                id: id.clone(),
                source: qmp(),
            },
            UnplugError::Refused {
                name: vm.clone(),
                id: id.clone(),
            },
            UnplugError::TimedOut {
                name: vm.clone(),
                id: id.clone(),
                limit: SECOND,
            },
            UnplugError::Lost {
                name: vm,
                id,
                source: recv(),
            },
        ],
    );
    let (wanted, tail) = (s("login:"), s("panic"));
    add(
        &mut all,
        "console",
        [
            ConsoleError::Closed {
                wanted: wanted.clone(),
                tail: tail.clone(),
            },
            ConsoleError::TimedOut {
                wanted,
                deadline: SECOND,
                tail,
            },
            ConsoleError::Write(io()),
            ConsoleError::NotRead { deadline: SECOND },
        ],
    );
    let (command, target) = (s("read 0 1"), IoTarget::node("n"));
    add(
        &mut all,
        "read 0 1",
        [
            HmpError::Qmp {
                command: command.clone(),
                source: qmp(),
            },
            HmpError::Refused {
                command: command.clone(),
                message: s("no"),
            },
        ],
    );
    add(
        &mut all,
        "read 0 1",
        [
            IoError::NoHmp {
                target: target.clone(),
                command: command.clone(),
            },
            IoError::Qmp {
                target: target.clone(),
                command: command.clone(),
                source: qmp(),
            },
            IoError::Refused {
                target,
                command: command.clone(),
                message: s("no"),
            },
            IoError::Quoting { text: command },
        ],
    );
    let no_path = NoSuchPath {
        root: s("top"),
        path: s("backing"),
        reached: String::new(),
        missing: s("top"),
    };
    add(&mut all, "\"top\"", [no_path]);
    let machine = s("qemu -S");
    add(
        &mut all,
        "probe",
        [
            ProbeError::Kind {
                path: path.clone(),
                kind: ToolKind::Img,
            },
            ProbeError::NoAccelerator {
                path,
                trials: Vec::new(),
                last: None,
            },
            ProbeError::Launch(LaunchError::Descriptor {
                name: s(CAUSE),
                what: s(""),
                source: io(),
            }),
            ProbeError::End(EndError::Lost {
                name: s(CAUSE),
                source: process(),
            }),
        ],
    );
    add(&mut all, "help", [ProbeError::Help(*process())]);
    add(
        &mut all,
        "qemu -S",
        [
            ProbeError::Query {
                machine: machine.clone(),
                command: "query-version",
                source: qmp(),
            },
            ProbeError::Schema {
                machine,
                source: qmp::decode::DecodeError {
                    path: s("[0].name"),
                    message: s(CAUSE),
                },
            },
        ],
    );
    add(&mut all, "a line", [LineError(s("a line"))]);
    add(
        &mut all,
        "outb 0x1 0x2",
        [
            QtestError::NoVirtualClock {
                request: request.clone(),
                reply: s("FAIL"),
            },
            QtestError::Refused {
                request: request.clone(),
                reply: s("FAIL"),
            },
            QtestError::BadReply {
                request: request.clone(),
                values: vec![s("1")],
            },
            QtestError::BadLine {
                request: request.clone(),
                source: LineError(s(CAUSE)),
            },
            QtestError::OutOfStep {
                request: request.clone(),
                line: s("?"),
            },
            QtestError::Newline {
                request: request.clone(),
            },
            QtestError::Closed {
                request: request.clone(),
            },
            QtestError::TimedOut {
                request: request.clone(),
                deadline: SECOND,
            },
            QtestError::Io {
                request,
                source: io(),
            },
        ],
    );

    all
}

#[test]
fn each_error_says_what_failed_and_leaves_its_cause_to_the_source() {
    for (error, names) in all() {
        let text = error.to_string();
        assert!(text.starts_with("failed to "), "{text}");
        assert!(text.contains(names), "{text}");
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(!text.contains(CAUSE), "its cause is said twice: {text}");
        assert_ne!(text, cause);
        // The `{:?}` form of a structure does not belong in a message.
        for debug in ["{ ", "Some(", "None", "Error {", "\\\""] {
            let line = text.lines().next().unwrap_or_default();
            assert!(!line.contains(debug), "{text}");
        }
    }
}

/// A new error has to be added above.
#[test]
fn every_error_is_among_them() {
    let mut messages = 0;
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("messages.rs") {
                messages += std::fs::read_to_string(&path).unwrap().matches("#[error(").count();
            }
        }
    }
    // NoPlan is the transparent LaunchError::Mode; a program can fail to start in seven ways.
    let expected = messages - 1 + 6;
    assert_eq!(all().len(), expected);
}
