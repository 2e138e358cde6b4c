//! The client against real QEMU processes.

use std::future::IntoFuture;
use std::time::Duration;

use qmp::types::{
    Abort, AbortWrapper, AddFd, BlockDirtyBitmapAdd, BlockDirtyBitmapAddWrapper, BlockdevAdd,
    BlockdevOptions, BlockdevOptionsNull, BlockdevOptionsVariant, ChardevAdd, ChardevFile,
    ChardevFileWrapper, JobStatus, Netdev, NetdevAdd, NetdevDel, NetdevHubPortOptions,
    QueryChardev, QueryFdsets, QueryNamedBlockNodes, Transaction, TransactionAction,
};
use qmp::{Client, Closed, ConnectError, ErrorClass, JobOutcome, Matcher, Options, Schema};
use serde_json::{Value, json};

use crate::qemu::{self, Qemu};

#[tokio::test]
async fn a_session_with_every_storage_daemon_goes_from_greeting_to_quit() {
    for program in qemu::all("qemu-storage-daemon") {
        let mut qsd = Qemu::storage_daemon(&program);
        let client = qsd.client().await;
        assert!(
            client.greeting().version.at_least(6, 2),
            "{:?}",
            client.greeting()
        );
        assert!(client.oob_enabled());
        client
            .execute(
                "blockdev-add",
                json!({"driver": "null-co", "node-name": "n0"}),
            )
            .await
            .unwrap();
        let error = client
            .execute(
                "blockdev-add",
                json!({"driver": "null-co", "node-name": "n0"}),
            )
            .await
            .unwrap_err();
        assert!(error.desc().unwrap().contains("n0"), "{error}");
        let nodes = client.execute("query-named-block-nodes", ()).await.unwrap();
        assert_eq!(nodes[0]["node-name"], "n0");
        let tail = client.transcript_tail(2);
        assert!(tail[0].text.contains("query-named-block-nodes"), "{tail:?}");
        client.quit().await.unwrap();
        assert!(matches!(client.closed().await, Closed::Eof));
        assert!(qsd.child.wait().unwrap().success());
    }
}

/// QEMU drops commands that it has read but not begun when their connection closes, so a client
/// must not disconnect before its commands are answered.
#[tokio::test]
async fn quit_is_not_lost_when_its_client_leaves_at_once() {
    for program in qemu::all("qemu-storage-daemon") {
        for _ in 0..10 {
            let mut qsd = Qemu::storage_daemon(&program);
            let client = qsd.client().await;
            let others: Vec<_> = (0..20)
                .map(|_| tokio::spawn(client.execute("query-commands", ()).into_future()))
                .collect();
            while client.outstanding().0 == 0 {
                tokio::task::yield_now().await;
            }
            client.quit().await.unwrap();
            others.iter().for_each(|call| call.abort());
            drop(client);
            assert!(qsd.child.wait().unwrap().success());
        }
    }
}

#[tokio::test]
async fn a_job_is_followed_from_its_start_to_its_end() {
    for program in qemu::all("qemu-storage-daemon") {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image");
        std::fs::write(&file, b"").unwrap();
        let mut qsd = Qemu::storage_daemon(&program);
        let client = qsd.client().await;
        let mut job = client.job("j0");
        client
            .execute(
                "blockdev-create",
                json!({"job-id": "j0", "options": {
                    "driver": "file", "filename": file, "size": 1 << 20,
                }}),
            )
            .await
            .unwrap();
        job.wait_completed().await.unwrap();
        assert_eq!(job.status().await.unwrap(), JobStatus::Concluded);
        job.dismiss().await.unwrap();
        assert_eq!(job.wait_end().await.unwrap(), JobOutcome::Completed);
        assert_eq!(job.status().await.unwrap(), JobStatus::Null);
        assert_eq!(std::fs::metadata(&file).unwrap().len(), 1 << 20);
        client.quit().await.unwrap();
    }
}

/// The forms that a union takes on the wire: its variant beside its own members, or in `data`.
#[tokio::test]
async fn a_union_that_is_sent_is_what_every_emulator_reads() {
    for program in qemu::all("qemu-system-x86_64") {
        let folder = tempfile::tempdir().unwrap();
        let mut qemu = Qemu::emulator(&program);
        let client = qemu.client().await;
        let null = BlockdevOptionsVariant::NullCo(Box::new(BlockdevOptionsNull::new()));
        let node = BlockdevOptions::new(null).node_name("n0");
        client.call(BlockdevAdd(node)).await.unwrap();

        let bitmap = |name| {
            let add = BlockDirtyBitmapAdd::new("n0", name);
            TransactionAction::from(BlockDirtyBitmapAddWrapper::new(add))
        };
        let both = Transaction::new([bitmap("b0"), bitmap("b1")]);
        client.call(both).await.unwrap();
        let abort = AbortWrapper::new(Abort::new()).into();
        let none = client.call(Transaction::new([bitmap("b2"), abort])).await;
        assert!(none.unwrap_err().command().is_some());
        let nodes = client.call(QueryNamedBlockNodes::new()).await.unwrap();
        let bitmaps = nodes[0].dirty_bitmaps.iter().flatten();
        let mut names: Vec<_> = bitmaps.filter_map(|it| it.name.as_deref()).collect();
        names.sort_unstable();
        assert_eq!(names, ["b0", "b1"]);

        let log = folder.path().join("log").display().to_string();
        let file = ChardevFileWrapper::new(ChardevFile::new(log.as_str()));
        client.call(ChardevAdd::new("c0", file)).await.unwrap();
        let chardevs = client.call(QueryChardev::new()).await.unwrap();
        assert!(chardevs.iter().any(|chardev| chardev.label == "c0"));
        assert!(std::path::Path::new(&log).exists());

        let port = Netdev::new("net0", NetdevHubPortOptions::new(7));
        client.call(NetdevAdd(port)).await.unwrap();
        client.call(NetdevDel::new("net0")).await.unwrap();
        client.quit().await.unwrap();
    }
}

#[tokio::test]
async fn the_schema_answers_what_each_version_can_do() {
    for program in qemu::all("qemu-storage-daemon") {
        let mut qsd = Qemu::storage_daemon(&program);
        let client = qsd.client().await;
        let schema = Schema::query(&client).await.unwrap();
        for path in [
            "blockdev-add/arg-type/+qcow2/lazy-refcounts",
            "blockdev-add/arg-type/driver/^null-co",
            "blockdev-add/arg-type/+qcow2/backing/driver/^raw",
            "query-jobs/ret-type/*error/!str",
            "job-dismiss/arg-type/id",
            "JOB_STATUS_CHANGE/arg-type/status/^concluded",
        ] {
            assert_eq!(schema.check(path), Ok(true), "{path}");
        }
        // Two members that came between the versions under test.
        let version = client.greeting().version.clone();
        for (path, since) in [
            ("blockdev-add/arg-type/+qcow2/discard-no-unref", (8, 1)),
            ("blockdev-add/arg-type/*active", (10, 0)),
        ] {
            let want = version.at_least(since.0, since.1);
            assert_eq!(schema.check(path), Ok(want), "{path} in {version}");
        }
        assert!(
            !schema.has_command("device_add"),
            "a storage daemon has no devices"
        );
        assert_eq!(schema.commands().len(), {
            let commands = client.execute("query-commands", ()).await.unwrap();
            commands.as_array().unwrap().len()
        });
    }
}

#[tokio::test]
async fn what_qemu_withholds_for_now_or_by_policy_is_an_ordinary_error() {
    for program in qemu::all("qemu-system-x86_64") {
        let mut vm = Qemu::emulator_with(&program, &["-preconfig"]);
        // Not enabling what is offered is allowed; asking for it then is an error of that command.
        let client = vm.client_with(Options::default().oob(false)).await;
        let error = client.execute("stop", ()).await.unwrap_err();
        assert_eq!(error.class(), Some(&ErrorClass::GenericError), "{error}");
        assert!(error.desc().unwrap().contains("initialization"), "{error}");
        client.execute("x-exit-preconfig", ()).await.unwrap();
        client.execute("stop", ()).await.unwrap();
        let error = client.execute("query-yank", ()).oob().await.unwrap_err();
        assert!(error.desc().unwrap().contains("exec-oob"), "{error}");
        client.quit().await.unwrap();

        let mut vm = Qemu::emulator(&program);
        let all = Schema::query(&vm.client().await).await.unwrap();
        let policy = "deprecated-input=reject,deprecated-output=hide";
        let mut vm = Qemu::emulator_with(&program, &["-compat", policy]);
        let client = vm.client().await;
        let fewer = Schema::query(&client).await.unwrap();
        let hidden: Vec<_> = all.commands().into_iter().filter(|c| !fewer.has_command(c)).collect();
        if hidden.is_empty() {
            println!("skipped: nothing is deprecated in {program:?}");
        }
        for command in hidden {
            assert_eq!(
                all.check(&format!("{command}/$deprecated")),
                Ok(true),
                "{command}"
            );
            let error = client.execute(command, ()).await.unwrap_err();
            assert_eq!(error.class(), Some(&ErrorClass::CommandNotFound), "{error}");
        }
        client.quit().await.unwrap();
    }
}

/// Blocks the main loop of an emulator as QEMU's own tests do: by opening a FIFO without a writer.
struct Blockade {
    _folder: tempfile::TempDir,
    fifo: std::path::PathBuf,
}

impl Blockade {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        Self {
            _folder: folder,
            fifo,
        }
    }

    fn arguments(&self) -> Value {
        json!({"driver": "blkdebug", "node-name": "b", "config": self.fifo,
               "image": {"driver": "null-co"}})
    }

    /// Lets the main loop continue; returns once it has.
    async fn lift(&self) {
        let fifo = self.fifo.clone();
        let open = move || std::fs::OpenOptions::new().write(true).open(fifo).map(drop);
        tokio::task::spawn_blocking(open).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_oob_command_completes_while_the_main_loop_is_blocked_and_a_thousand_wait() {
    for program in qemu::all("qemu-system-x86_64") {
        let mut vm = Qemu::emulator(&program);
        let client = vm.client().await;
        let blockade = Blockade::new();
        let blocked =
            tokio::spawn(client.execute("blockdev-add", blockade.arguments()).into_future());
        let waiting: Vec<_> = (0..1000)
            .map(|_| tokio::spawn(client.execute("query-version", ()).into_future()))
            .collect();
        while client.outstanding() != (7, 994) {
            tokio::task::yield_now().await;
        }
        client.execute("query-yank", ()).oob().await.unwrap();
        assert_eq!(client.outstanding(), (7, 994), "nothing else has moved");
        let refused = client.execute("query-version", ()).oob().await.unwrap_err();
        assert!(refused.desc().unwrap().contains("OOB"), "{refused}");
        // A deadline ends a call, not the session.
        let late = client.execute("query-name", ()).deadline(Duration::from_millis(10)).await;
        assert!(late.unwrap_err().is_timeout());
        blockade.lift().await;
        blocked.await.unwrap().unwrap();
        for call in waiting {
            assert!(call.await.unwrap().unwrap()["qemu"].is_object());
        }
        client.quit().await.unwrap();
    }
}

#[tokio::test]
async fn a_file_descriptor_reaches_qemu_with_its_command() {
    for program in qemu::all("qemu-system-x86_64") {
        let mut vm = Qemu::emulator(&program);
        let client = vm.client().await;
        let file = || std::fs::File::open("/dev/zero").unwrap();
        // Pipelined: without "one at a time" the second would close the first.
        let calls = (0..20).map(|n| {
            let call = client.call(AddFd::new().fdset_id(n).opaque(format!("o{n}"))).fd(file());
            tokio::spawn(call.into_future())
        });
        for (n, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap().fdset_id, n as i64);
        }
        assert_eq!(client.call(QueryFdsets::new()).await.unwrap().len(), 20);
        client.execute("getfd", json!({"fdname": "f"})).fd(file()).await.unwrap();
        client.execute("closefd", json!({"fdname": "f"})).await.unwrap();
        let error = client.execute("getfd", json!({"fdname": "f"})).await.unwrap_err();
        assert!(
            error.desc().is_some_and(|desc| desc.contains("No file descriptor")),
            "{error}"
        );
        client.quit().await.unwrap();
    }
}

/// A storage daemon whose monitor listens there. It waits for the first client: one that comes while
/// the monitor gets its thread may be accepted by two threads, and be lost.
fn with_monitor_at(program: &qemu::Program, path: &std::path::Path) -> Qemu {
    let chardev = format!("socket,id=m,path={},server=on,wait=on", path.display());
    Qemu::start(program, &["--chardev", &chardev, "--monitor", "chardev=m"])
}

/// The state of a process, as in `/proc/PID/stat`.
fn state(pid: i32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat[stat.rfind(')').unwrap() + 1..].trim_start().to_owned()
}

#[tokio::test]
async fn a_stopped_qemu_and_a_busy_monitor_are_told_apart() {
    for program in qemu::all("qemu-storage-daemon") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let qsd = with_monitor_at(&program, &path);
        let options = Options::default();
        let first = Client::wait_unix(&path, options, std::future::pending()).await.unwrap();
        let short = || Options::default().connect_deadline(Duration::from_millis(200));
        let busy = Client::connect_unix(&path, short()).await.unwrap_err();
        assert!(matches!(busy, ConnectError::Silent { .. }), "{busy:?}");
        let pid = i32::try_from(qsd.child.id()).unwrap();
        let signal = |name: &str| {
            let status = std::process::Command::new("kill").args([name, &pid.to_string()]).status();
            assert!(status.unwrap().success());
        };
        signal("-STOP");
        // The signal has been sent; the process may take a moment to heed it.
        while !state(pid).starts_with('T') {
            assert!(!state(pid).starts_with('Z'), "it has ended");
            tokio::task::yield_now().await;
        }
        let stopped = Client::connect_unix(&path, short()).await.unwrap_err();
        signal("-CONT");
        assert!(
            matches!(stopped, ConnectError::Stopped { pid: p, .. } if p == pid),
            "{stopped:?}"
        );
        assert_eq!(first.execute("query-jobs", ()).await.unwrap(), json!([]));
    }
}

#[tokio::test]
async fn the_next_client_of_a_monitor_is_not_misled_by_the_last_one() {
    for program in qemu::all("qemu-storage-daemon") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let _qsd = with_monitor_at(&program, &path);
        for round in 0..30 {
            let options = Options::default();
            let client = Client::wait_unix(&path, options, std::future::pending()).await.unwrap();
            // Closed abruptly: replies are still in flight.
            for n in 0..5 {
                let call = client.execute("query-version", ());
                let _ =
                    tokio::time::timeout(Duration::from_micros(n * 50), call.into_future()).await;
            }
            let jobs = client.execute("query-jobs", ()).await.unwrap();
            assert_eq!(jobs, json!([]), "round {round}");
        }
    }
}

#[tokio::test]
async fn a_child_with_its_monitor_on_stdio_can_be_spoken_to() {
    for program in qemu::all("qemu-storage-daemon") {
        let mut child = tokio::process::Command::new(program.path())
            .args(["--chardev", "stdio,id=m", "--monitor", "chardev=m"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let client = Client::from_child(&mut child, Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let create = json!({"job-id": "j0", "options": {
            "driver": "file", "filename": folder.path().join("image"), "size": 1 << 20,
        }});
        let concluded =
            Matcher::event("JOB_STATUS_CHANGE").data(json!({"id": "j0", "status": "concluded"}));
        client.execute("blockdev-create", create).and_event(concluded).await.unwrap();
        client.quit().await.unwrap();
        assert!(child.wait().await.unwrap().success());
        let again = Client::from_child(&mut child, Options::default()).await;
        assert!(again.is_err(), "its pipes are taken");
    }
}

#[tokio::test]
async fn pretty_printed_monitors_are_understood() {
    for program in qemu::all("qemu-storage-daemon") {
        let chardev = [
            "--chardev",
            "socket,id=m,fd=0",
            "--monitor",
            "chardev=m,pretty=on",
        ];
        let mut qsd = Qemu::start(&program, &chardev);
        let client = qsd.client().await;
        let schema = Schema::query(&client).await.unwrap();
        assert!(schema.has_command("blockdev-add"));
        let (ours, _) = client.outstanding();
        assert_eq!(ours, 0);
        client.quit().await.unwrap();
    }
}
