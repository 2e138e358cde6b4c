//! Interactive qemu-io: real sessions, and scripts that misbehave.

use std::time::{Duration, Instant};

use imgtools::image::ImageSpec;
use imgtools::io::{
    IoCommand, IoError, LineError, MAX_LINE, Open, QemuIo, Session, Transfer, Verb,
};
use imgtools::process::Status;
use imgtools::tools::{Tool, ToolKind, Version};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Folder, LONG, Tools, all_tools};

const MIB: u64 = 1 << 20;

fn open(tools: &Tools, folder: &Folder) -> Open {
    let path = folder.path("disk");
    imgtools::raw::create_sparse(&path, MIB).unwrap();
    tools.io.open(ImageSpec::file(path).format("raw"))
}

/// The same qemu-io by another name.
fn renamed_io(tools: &Tools, folder: &Folder) -> QemuIo {
    let renamed = folder.path("my-qio");
    std::os::unix::fs::symlink(&tools.io.tool().path, &renamed).unwrap();
    let tool = Tool {
        path: renamed.into(),
        ..tools.io.tool().clone()
    };
    QemuIo::new(tool).deadline(LONG)
}

/// A qemu-io that is a shell script.
fn fake(folder: &Folder, name: &str, body: &str) -> Open {
    let tool = Tool::new(ToolKind::Io, folder.script(name, body));
    QemuIo::new(tool).deadline(LONG).open_nothing()
}

/// A command of the random session, and its expected result.
#[derive(Clone, Debug)]
enum Step {
    Read {
        offset: u64,
        length: u64,
        verbose: bool,
    },
    Write {
        offset: u64,
        length: u64,
    },
    AioRead {
        offset: u64,
        length: u64,
    },
    AioWrite {
        offset: u64,
        length: u64,
    },
    AioFlush,
    OutOfRange {
        offset: u64,
    },
    WrongPattern {
        offset: u64,
    },
    Unknown {
        name: String,
    },
    TooFewArguments,
    Empty,
    Length,
    Longest {
        offset: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    // The lengths identify completions: aio has odd numbers of sectors, all others even ones.
    let place = || (0u64..512, 1u64..32);
    prop_oneof![
        3 => (place(), any::<bool>()).prop_map(|((sector, length), verbose)| Step::Read {
            offset: sector * 512,
            length: if verbose { 1024 } else { length * 1024 },
            verbose,
        }),
        3 => place().prop_map(|(sector, length)| Step::Write { offset: sector * 512, length: length * 1024 }),
        2 => place().prop_map(|(sector, length)| Step::AioRead {
            offset: sector * 512,
            length: length * 1024 + 512,
        }),
        2 => place().prop_map(|(sector, length)| Step::AioWrite {
            offset: sector * 512,
            length: length * 1024 + 512,
        }),
        1 => Just(Step::AioFlush),
        1 => (0u64..512).prop_map(|sector| Step::OutOfRange { offset: MIB + sector * 512 }),
        1 => (0u64..512).prop_map(|sector| Step::WrongPattern { offset: sector * 512 }),
        1 => "[a-z]{1,8}[0-9]{1,6}".prop_map(|name| Step::Unknown { name }),
        1 => Just(Step::TooFewArguments),
        1 => Just(Step::Empty),
        1 => Just(Step::Length),
        1 => (0u64..512).prop_map(|sector| Step::Longest { offset: sector * 512 }),
    ]
}

impl Step {
    fn command(&self) -> IoCommand {
        match self {
            Step::Read {
                offset,
                length,
                verbose: false,
            } => IoCommand::read(*offset, *length),
            Step::Read {
                offset,
                length,
                verbose: true,
            } => IoCommand::read(*offset, *length).verbose(),
            // The text of the prompt, where a hex dump shows it.
            Step::Write { offset, length } => IoCommand::write(*offset, *length).pattern(b'>'),
            Step::AioRead { offset, length } => IoCommand::aio_read(*offset, *length),
            Step::AioWrite { offset, length } => IoCommand::aio_write(*offset, *length),
            Step::AioFlush => IoCommand::aio_flush(),
            Step::OutOfRange { offset } => IoCommand::read(*offset, 512),
            Step::WrongPattern { offset } => IoCommand::read(*offset, 512).pattern(0x99),
            Step::Unknown { name } => name.as_str().into(),
            Step::TooFewArguments => "write".into(),
            Step::Empty => "".into(),
            Step::Length => IoCommand::length(),
            Step::Longest { offset } => {
                let end = format!("{offset} 2048");
                format!("read {}{end}", " ".repeat(MAX_LINE - 5 - end.len())).as_str().into()
            }
        }
    }

    /// The request that is done when the reply is there.
    fn transfer(&self) -> Option<Transfer> {
        let transfer = |verb, offset: &u64, length: u64| {
            Some(Transfer {
                verb,
                bytes: length,
                requested: length,
                offset: *offset,
            })
        };
        match self {
            Step::Read { offset, length, .. } => transfer(Verb::Read, offset, *length),
            Step::Write { offset, length } => transfer(Verb::Wrote, offset, *length),
            Step::Longest { offset } => transfer(Verb::Read, offset, 2048),
            // A wrong pattern is reported, and then the read as always.
            Step::WrongPattern { offset } => transfer(Verb::Read, offset, 512),
            _ => None,
        }
    }

    /// The request that is done some time later.
    fn outstanding(&self) -> Option<Transfer> {
        match self {
            Step::AioRead { offset, length } => Step::Read {
                offset: *offset,
                length: *length,
                verbose: false,
            }
            .transfer(),
            Step::AioWrite { offset, length } => Step::Write {
                offset: *offset,
                length: *length,
            }
            .transfer(),
            _ => None,
        }
    }

    fn stderr(&self) -> String {
        match self {
            Step::Unknown { name } => format!("command \"{name}\" not found\n"),
            Step::TooFewArguments => {
                "bad argument count 0 to write, expected at least 2 arguments\n".to_owned()
            }
            _ => String::new(),
        }
    }

    /// Lines that must be in the reply beside the request and its statistics.
    fn line(&self) -> Option<String> {
        match self {
            Step::OutOfRange { .. } => Some("read failed: Input/output error".to_owned()),
            Step::WrongPattern { offset } => Some(format!(
                "Pattern verification failed at offset {offset}, 512 bytes"
            )),
            Step::Length => Some("1 MiB".to_owned()),
            _ => None,
        }
    }
}

/// Runs the steps in one session, and verifies that each reply is that of its command.
fn follow(session: &mut Session, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut outstanding: Vec<Transfer> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let reply = session.run_blocking(step.command()).unwrap();
        let context = format!("step {index}, {step:?}: {reply:?}");
        prop_assert_eq!(&reply.stderr, &step.stderr(), "{}", context);
        outstanding.extend(step.outstanding());

        let mut done = reply.transfers();
        if let Some(own) = step.transfer() {
            let position = done.iter().position(|transfer| *transfer == own);
            prop_assert!(position.is_some(), "{}", context);
            done.remove(position.unwrap());
        }
        // All others are those of aio requests that were started before, each once.
        for transfer in &done {
            let position = outstanding.iter().position(|started| started == transfer);
            prop_assert!(position.is_some(), "{}", context);
            outstanding.remove(position.unwrap());
        }
        if let Step::AioFlush = step {
            prop_assert!(outstanding.is_empty(), "{}", context);
        }

        // Nothing else but what belongs to this command.
        let own_line = step.line();
        let mut own_lines = 0;
        let mut dumped = 0;
        for line in reply.stdout.lines() {
            let is_statistics = line.contains(" ops; ") && line.ends_with(" ops/sec)");
            if own_line.as_deref() == Some(line) {
                own_lines += 1;
            } else if matches!(step, Step::Read { verbose: true, .. }) && line.contains(":  ") {
                dumped += 1;
            } else {
                let is_transfer = line.contains(" bytes at offset ");
                prop_assert!(is_statistics || is_transfer, "{:?} in {}", line, context);
            }
        }
        prop_assert_eq!(own_lines, usize::from(own_line.is_some()), "{}", context);
        if let Step::Read {
            verbose: true,
            length,
            ..
        } = step
        {
            prop_assert_eq!(dumped, length / 16, "{}", context);
        }
    }
    Ok(())
}

#[test]
fn ten_thousand_random_commands_are_each_paired_with_their_output() {
    let tools = all_tools();
    // Ten sessions of 1000 commands, shared between the sets of tools.
    let sessions = 10 / tools.len().max(1) as u32;
    for tools in &tools {
        let mut runner = TestRunner::new(Config {
            cases: sessions,
            max_shrink_iters: 50,
            failure_persistence: None,
            ..Config::default()
        });
        let steps = (prop::collection::vec(step(), 1000), any::<bool>());
        runner
            .run(&steps, |(steps, renamed)| {
                let folder = Folder::new();
                let mut tools = tools.clone();
                if renamed {
                    tools.io = renamed_io(&tools, &folder);
                }
                let mut session = open(&tools, &folder).session_blocking().unwrap();
                // A hex dump of this shows the prompt in its text.
                let prompt = session.prompt().into_bytes();
                for (offset, byte) in prompt.iter().enumerate() {
                    let write = IoCommand::write(offset as u64, 1).pattern(*byte);
                    session.run_blocking(write).unwrap().check().unwrap();
                }
                follow(&mut session, &steps)?;
                session.quit_blocking().unwrap();
                Ok(())
            })
            .unwrap();
        println!("QEMU {}: {} commands", tools.version(), sessions * 1000);
    }
}

#[test]
fn a_renamed_binary_works_and_so_does_one_behind_a_script() {
    for tools in all_tools() {
        let folder = Folder::new();
        let io = renamed_io(&tools, &folder);
        let mut session = io.open_nothing().session_blocking().unwrap();
        // A script that runs the real one by its real name is not renamed by this.
        assert!(["my-qio> ", "qemu-io> "].contains(&session.prompt().as_str()));
        let reply = session.run_blocking("nonsense").unwrap();
        assert_eq!(
            (&*reply.stdout, &*reply.stderr),
            ("", "command \"nonsense\" not found\n")
        );
        session.quit_blocking().unwrap();
    }
}

#[test]
fn the_longest_line_is_one_command_and_a_longer_one_is_refused_before_it_is_sent() {
    for tools in all_tools() {
        let folder = Folder::new();
        let mut session = open(&tools, &folder).session_blocking().unwrap();
        // With its newline this has the 1023 bytes that qemu-io reads at most.
        let longest = "x".repeat(MAX_LINE);
        let reply = session.run_blocking(longest.as_str()).unwrap();
        assert_eq!(reply.stderr, format!("command \"{longest}\" not found\n"));
        let error = session.run_blocking("x".repeat(MAX_LINE + 1)).unwrap_err();
        assert!(
            matches!(
                error,
                IoError::Line(LineError::TooLong { length: 1023, .. })
            ),
            "{error}"
        );
        let error = session.run_blocking("length\nlength").unwrap_err();
        assert!(
            matches!(error, IoError::Line(LineError::ControlCharacter(_))),
            "{error}"
        );
        // Nothing of those was sent.
        assert_eq!(session.run_blocking("length").unwrap().stdout, "1 MiB\n");
    }
}

#[tokio::test]
async fn completions_of_aio_are_collected_by_aio_flush() {
    for tools in all_tools() {
        let folder = Folder::new();
        let mut session = open(&tools, &folder).session().await.unwrap();
        let mut text = String::new();
        for index in 0..8u64 {
            let reply = session.run(IoCommand::aio_write(index * 4096, 4096)).await.unwrap();
            text += &reply.stdout;
        }
        text += &session.aio_flush().await.unwrap().check().unwrap().stdout;
        assert_eq!(imgtools::io::transfers(&text).len(), 8);
        let output = session.quit().await.unwrap();
        assert_eq!(output.status, Status::Exited(0));
    }
}

#[test]
fn a_reply_is_a_success_only_if_it_says_so() {
    for tools in all_tools() {
        let folder = Folder::new();
        let mut session = open(&tools, &folder).session_blocking().unwrap();
        let mut run = |command: IoCommand| session.run_blocking(command).unwrap();
        for good in [
            IoCommand::write(0, 512).pattern(1),
            IoCommand::read(0, 512).pattern(1),
            IoCommand::read(0, 512).pattern(1).quiet(),
            IoCommand::write_zeroes(0, 65536),
            IoCommand::discard(0, 4096),
            IoCommand::readv(0, [512, 1024]),
            IoCommand::writev(0, [512, 1024]).fua(),
            IoCommand::flush(),
            IoCommand::map(),
            IoCommand::alloc(0, 512),
            IoCommand::info(),
            IoCommand::truncate(MIB),
            IoCommand::reopen("-r"),
        ] {
            run(good).check().unwrap();
        }
        for bad in [
            IoCommand::write(0, 512),
            "write -P 300 0 512".into(),
            "read x 512".into(),
            "nonsense".into(),
            IoCommand::read(0, 512).pattern(0x77),
            IoCommand::read(2 * MIB, 512),
        ] {
            let error = run(bad.clone()).check().unwrap_err();
            let start = format!("failed to run `{bad}` in qemu-io:\n  | ");
            assert!(error.to_string().starts_with(&start), "{error}");
        }
        // Typed, it is known what a write must say.
        let quiet_failure = run(IoCommand::write(0, 512).flag("-P").flag("300"));
        assert!(!quiet_failure.is_success(), "{quiet_failure:?}");
    }
}

/// H04: an interactive qemu-io that fails to start reports all it printed, its status and arguments.
#[test]
fn h04_a_session_that_does_not_start_reports_everything() {
    for tools in all_tools() {
        let folder = Folder::new();
        let image = folder.path("nothing");
        let error = tools.io.open(ImageSpec::file(&image).format("raw")).session_blocking();
        let error = error.unwrap_err();
        let IoError::Start(output) = &error else {
            panic!("{error}")
        };
        assert_eq!(output.status, Status::Exited(1));
        let message = error.to_string();
        assert!(
            message.starts_with("failed to start a session: `"),
            "{message}"
        );
        assert!(
            message.contains(&format!(" -f raw -- {image}` exited with status 1\n  | ")),
            "{message}"
        );
        assert!(message.contains("No such file or directory"), "{message}");
    }
    let folder = Folder::new();
    let script = "echo to stdout; echo to stderr >&2; kill -SEGV $$";
    let error = fake(&folder, "qemu-io", script).session_blocking().unwrap_err().to_string();
    assert!(error.contains("was killed by signal 11"), "{error}");
    assert!(
        error.contains("\n  | to stdout") && error.contains("\n  | to stderr"),
        "{error}"
    );
}

#[test]
fn a_crash_is_reported_with_its_status() {
    for tools in all_tools() {
        for (command, signal) in [(IoCommand::abort(), 6), (IoCommand::sigraise(9), 9)] {
            let folder = Folder::new();
            let mut session = open(&tools, &folder).session_blocking().unwrap();
            session.run_blocking("read 0 512").unwrap();
            let error = session.run_blocking(&command).unwrap_err();
            let IoError::Died { reply, output } = &error else {
                panic!("{error}")
            };
            assert_eq!(output.status.signal(), Some(signal));
            assert_eq!(reply.command, command.to_string());
            // The session is over, and says so for each command.
            let error = session.run_blocking("length").unwrap_err();
            assert!(matches!(error, IoError::Died { .. }), "{error}");
            assert!(session.quit_blocking().is_err());
        }
    }
}

#[test]
fn an_exit_in_a_command_is_reported_with_what_was_printed_before() {
    let folder = Folder::new();
    let script = "printf 'fake> '; read x; echo half an; printf answer; echo why >&2; exit 3";
    let mut session = fake(&folder, "fake", script).session_blocking().unwrap();
    let error = session.run_blocking("command").unwrap_err();
    let IoError::Died { reply, output } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (&*reply.stdout, &*reply.stderr),
        ("half an\nanswer", "why\n")
    );
    assert_eq!(output.status, Status::Exited(3));
    let expected = "failed to run `command` in qemu-io: it exited with status 3\
                    \n  | half an\n  | answer\n  | why";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn each_command_has_a_deadline_and_the_time_between_them_does_not_count() {
    for tools in all_tools() {
        let folder = Folder::new();
        let mut session = open(&tools, &folder).session().await.unwrap();
        // As short as this machine allows now.
        let mut deadline = Duration::from_millis(100);
        'longer: loop {
            session.set_deadline(deadline);
            let begin = Instant::now();
            while begin.elapsed() < deadline * 2 {
                if session.run("length").await.is_err() {
                    session = open(&tools, &folder).session().await.unwrap();
                    deadline *= 2;
                    assert!(deadline < LONG, "the commands are added up");
                    continue 'longer;
                }
            }
            break;
        }
        let error = session.run(IoCommand::sleep(100_000)).await.unwrap_err();
        let IoError::Deadline {
            reply,
            deadline: passed,
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!((&*reply.command, *passed), ("sleep 100000", deadline));
    }
}

/// Only the text reports these: there is no exit status yet.
#[test]
fn a_command_that_is_refused_is_no_success_though_it_says_so_on_standard_output() {
    for tools in all_tools() {
        let folder = Folder::new();
        let mut session = open(&tools, &folder).session_blocking().unwrap();
        for refused in [
            IoCommand::break_at("pwritev", "A"),
            IoCommand::remove_break("A"),
            IoCommand::resume("A"),
            IoCommand::aio_write(0, 512).flag("-P").flag("300"),
            IoCommand::aio_write(0, 512).unmap(),
            IoCommand::aio_write(0, 3 << 30),
            IoCommand::alloc(0, u64::MAX),
            "aio_read 0 1G 1G 1G".into(),
            "aio_write -z 0 512 512".into(),
            "aio_read x 512".into(),
            "sleep x".into(),
            "write -z -P 1 0 512".into(),
            "write -n 0 512".into(),
            "discard 0 3G".into(),
            "read -P 1 -l 1024 0 512".into(),
            "write -b -z 0 64k".into(),
            "write -f -c 0 64k".into(),
            "write -b 1 1".into(),
            "aio_write -z -r 0 64k".into(),
        ] {
            let reply = session.run_blocking(&refused).unwrap();
            assert!(!reply.is_success(), "{} {reply:?}", tools.version());
            // (Versions before 8.1 do not know `-r` and say so there.)
            let by_flag = refused.to_string().contains(" -r ");
            assert!(by_flag || reply.stderr.is_empty(), "{reply:?}");
            // Also in a list, whose status knows nothing of aio.
            let list = open(&tools, &folder).command(&refused);
            list.run_blocking().unwrap_err();
        }
        // A success is not mistaken for a refusal, however it is written.
        for done in [
            "w 0 512",
            "write -q -P 7 0 512",
            "r 0 512",
            "read -C 0 512",
            "write -zq 0 512",
            "d 0 65536",
            "flush",
            "t 1M",
            "aio_write -P 7 0 512",
            "aio_read -q 0 512",
            "aio_flush",
            "alloc 0 512",
            "map",
            "length",
            "sleep 1",
            "reopen",
        ] {
            let reply = session.run_blocking(done).unwrap();
            assert!(reply.is_success(), "{} {reply:?}", tools.version());
            let list = open(&tools, &folder).command(done);
            list.run_blocking().unwrap();
        }
    }
}

#[test]
fn every_zone_command_is_one_that_qemu_io_takes() {
    for tools in all_tools() {
        // They came with 8.0 and, the last one, 8.1.
        if tools.version() < Version::new(8, 1, 0) {
            continue;
        }
        let folder = Folder::new();
        let mut session = open(&tools, &folder).session_blocking().unwrap();
        for command in [
            IoCommand::zone_report(0, 1),
            IoCommand::zone_open(0, 4096),
            IoCommand::zone_close(0, 4096),
            IoCommand::zone_finish(0, 4096),
            IoCommand::zone_reset(0, 4096),
            IoCommand::zone_append(0, [4096]),
            IoCommand::zone_append(0, [4096, 4096]),
        ] {
            let reply = session.run_blocking(&command).unwrap();
            // A file has no zones, but the command as such is right.
            let refused = " failed: Operation not supported\n";
            assert!(reply.stdout.ends_with(refused), "{reply:?}");
            assert_eq!(reply.stderr, "");
        }
    }
}

#[tokio::test]
async fn a_command_that_was_given_up_does_not_answer_the_next_one() {
    for tools in all_tools() {
        let folder = Folder::new();
        let mut session = open(&tools, &folder).session().await.unwrap();
        for round in 0..3 {
            // It is sent, and then abandoned.
            let mut given_up = Box::pin(session.run(IoCommand::sleep(50)));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let _ = given_up.as_mut().poll(&mut context);
            drop(given_up);
            let reply = match round {
                0 => session.run_blocking("length").unwrap(),
                _ => session.run("length").await.unwrap(),
            };
            assert_eq!((&*reply.command, &*reply.stdout), ("length", "1 MiB\n"));
        }
        // Now and then it has died before its answer is first asked for.
        let mut session = loop {
            let mut session = open(&tools, &folder).session().await.unwrap();
            let mut given_up = Box::pin(session.run(IoCommand::abort()));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            if given_up.as_mut().poll(&mut context).is_pending() {
                drop(given_up);
                break session;
            }
        };
        let error = session.run("length").await.unwrap_err();
        let IoError::Died { reply, .. } = error else {
            panic!("{error}");
        };
        // Not the one that was never sent.
        assert_eq!(reply.command, "abort");
    }
}

/// The abandoned command may also be one whose prompt was still ambiguous.
#[tokio::test]
async fn a_doubtful_prompt_that_was_given_up_does_not_answer_the_next_command() {
    let folder = Folder::new();
    let gate = folder.path("gate");
    // The first answer has no newline. The empty command that follows is held until the gate is
    // opened.
    let script = format!(
        "mkfifo {gate}; printf 'fake> '; read x; printf 'no newline'; printf 'fake> '; \
         read x; cat {gate}; while printf 'fake> ' && read x; do echo got $x; done"
    );
    let mut session = fake(&folder, "fake", &script).session_blocking().unwrap();
    let mut given_up = Box::pin(session.run("one"));
    // The gate can be opened for writing when the script reads it, which is after the empty command.
    let opened = tokio::task::spawn_blocking(move || std::fs::write(gate, ""));
    tokio::select! {
        biased;
        opened = opened => opened.unwrap().unwrap(),
        reply = &mut given_up => assert_eq!(reply.unwrap().stdout, "no newline"),
    }
    drop(given_up);
    assert_eq!(session.run("two").await.unwrap().stdout, "got two\n");
}

#[test]
fn a_session_can_do_without_an_image_and_open_one_later() {
    for tools in all_tools() {
        let folder = Folder::new();
        let path = folder.path("disk");
        imgtools::raw::create_sparse(&path, MIB).unwrap();
        let mut session = tools.io.open_nothing().session_blocking().unwrap();
        let reply = session.run_blocking("length").unwrap();
        assert_eq!(reply.stderr, "no file open, try 'help open'\n");
        session.run_blocking(format!("open -o driver=raw {path}")).unwrap().check().unwrap();
        assert_eq!(session.run_blocking("length").unwrap().stdout, "1 MiB\n");
    }
}

#[test]
fn commands_that_come_with_the_start_are_run_first() {
    for tools in all_tools() {
        let folder = Folder::new();
        let write = IoCommand::write(0, 512).pattern(3);
        let mut session = open(&tools, &folder).command(&write).session_blocking().unwrap();
        let read = IoCommand::read(0, 512).pattern(3);
        session.run_blocking(read).unwrap().check().unwrap();
        let error = open(&tools, &folder).command("nonsense").session_blocking().unwrap_err();
        assert!(matches!(error, IoError::Reply(_)), "{error}");
    }
}

#[test]
fn output_without_a_newline_is_told_from_its_prompt() {
    // The answer ends in the middle of a line, and one has something like a prompt in it.
    let script = "printf 'fake> '; while read x; do
        case \"$x\" in
            plain) printf 'no newline' ;;
            tricky) printf 'it says fake> '; read y; printf 'and goes on\\nfake> ' ;;
            q) exit 0 ;;
        esac
        printf 'fake> '
    done";
    let folder = Folder::new();
    let mut session = fake(&folder, "fake", script).session_blocking().unwrap();
    assert_eq!(session.prompt(), "fake> ");
    assert_eq!(session.run_blocking("plain").unwrap().stdout, "no newline");
    assert_eq!(session.run_blocking("").unwrap().stdout, "");
    assert_eq!(
        session.run_blocking("tricky").unwrap().stdout,
        "it says fake> and goes on\n"
    );
    assert_eq!(session.run_blocking("plain").unwrap().stdout, "no newline");
    session.quit_blocking().unwrap();
}

#[test]
fn a_prompt_is_learned_from_the_binary_if_it_is_not_the_file_s_name() {
    let script = "echo 'a > b'; printf 'other name> '; while read x; do printf 'got %s\\nother name> ' $x; done";
    let folder = Folder::new();
    let mut session = fake(&folder, "fake", script).session_blocking().unwrap();
    assert_eq!(session.prompt(), "other name> ");
    assert_eq!(session.run_blocking("1").unwrap().stdout, "got 1\n");
    assert_eq!(session.run_blocking("2").unwrap().stdout, "got 2\n");
}
