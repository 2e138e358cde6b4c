//! The traps of running a qemu-nbd, numbered as the field knows them: each has a test that falls
//! into it, or shows how the wrapper keeps out of it. That a pid file can be seen empty (trap 3) is
//! shown beside `PidFile`.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nbd::client::{Deadlines, HandshakeError};
use nbd::qemu_nbd::{Forked, Listen, QemuNbdError};
use nbd::uri::Address;
use nbd::{Client, QemuNbd};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::support::{MIB, all_tools, block_on, chain, each, img, raw, served, short_dir};

/// More than any machine needs; a test that gets here has failed.
const LONG: Duration = Duration::from_secs(120);

/// Trap 1: the parent exits with 1 as soon as the daemon has printed anything.
#[test]
fn fork_has_three_outcomes_and_they_are_told_apart() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone());
        let quiet = nbd.clone().format("raw").fork(&image, dir.path().join("1")).await.unwrap();
        assert!(matches!(quiet, Forked::Serving(..)), "{quiet:?}");
        // Without a format qemu-nbd warns, and its parent exits with 1 while the daemon serves.
        let warned = nbd.clone().fork(&image, dir.path().join("2")).await.unwrap();
        assert!(matches!(warned, Forked::ServingDespite(..)), "{warned:?}");
        assert!(
            warned.output().stderr_text().contains("WARNING"),
            "{warned:?}"
        );
        let failed = nbd.format("qcow2").fork(&image, dir.path().join("3")).await.unwrap();
        assert!(matches!(failed, Forked::Failed(_)), "{failed:?}");
        assert_eq!(failed.output().status.code(), Some(1));
        for forked in [quiet, warned] {
            let daemon = forked.daemon().unwrap();
            Client::builder().connect_uri(daemon.uri()).await.unwrap();
            assert!(!daemon.has_ended());
            assert!(daemon.stop().await.unwrap(), "SIGTERM was not enough");
        }
    });
}

/// Trap 2: `-v` keeps the daemon's standard error open forever on some versions.
#[test]
fn a_verbose_daemon_that_keeps_our_pipe_does_not_keep_us() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw").arg("-v");
        let verbose = nbd.fork(&image, dir.path().join("s")).await.unwrap();
        assert!(verbose.daemon().unwrap().stop().await.unwrap());
    });
}

/// Trap 4: the pid file is locked, and it stays when the server has ended.
#[test]
fn a_locked_pid_file_is_the_second_servers_own_error() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let pid_file = dir.path().join("pid");
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let nbd = nbd.arg("--pid-file").arg(&pid_file);
        let first = nbd.clone().serve_unix(&image, dir.path().join("1")).await;
        let first = first.unwrap();
        // Activated servers are ready with their greeting; the file comes a moment before.
        let text = std::fs::read_to_string(&pid_file).unwrap();
        assert_eq!(text.trim_end(), first.pid().to_string());
        let second = nbd.clone().serve_unix(&image, dir.path().join("2")).await;
        let error = second.unwrap_err();
        assert!(matches!(error, QemuNbdError::Exited(_)), "{error:?}");
        assert!(
            error.to_string().contains("Cannot lock pid file"),
            "{error}"
        );
        assert!(!dir.path().join("2").exists());
        first.stop().await.unwrap().check().unwrap();
        assert!(pid_file.exists(), "this version removes it");
        let third = nbd.serve_unix(&image, dir.path().join("2")).await.unwrap();
        assert!(third.stop().await.unwrap().status.is_success());
    });
}

/// Trap 5: a second server silently takes the path of the first. We do not.
#[test]
fn a_taken_socket_is_refused_instead_of_stolen() {
    each(|tools, dir| async move {
        let server = served(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let second = nbd.serve_unix(dir.path().join("raw"), dir.path().join("s")).await;
        assert!(matches!(second, Err(QemuNbdError::Listen { .. })));
        Client::builder().connect_uri(&server.uri()).await.unwrap();
    });
}

/// Trap 5: what activation avoids: two servers on one path, and the first takes the second's socket
/// with it when it ends.
#[test]
fn qemu_nbd_itself_steals_a_taken_socket() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let path = dir.path().join("s");
        let own = |ro: bool| {
            let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
            let nbd = if ro { nbd.read_only() } else { nbd };
            nbd.serve(image.clone(), Listen::OwnUnix(path.clone()))
        };
        let first = own(false).await.unwrap();
        let second = own(true).await.unwrap();
        let client = Client::builder().connect_uri(&first.uri()).await.unwrap();
        assert!(client.export().is_read_only(), "the second server answers");
        assert!(first.stop().await.unwrap().status.is_success());
        assert!(
            !path.exists(),
            "the first one removed the second one's socket"
        );
        assert!(second.stop().await.unwrap().status.is_success());
    });
}

/// Trap 6: a path has at most 107 bytes.
#[test]
fn a_socket_path_that_is_too_long_is_refused_by_us() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let path = dir.path().join("x".repeat(108));
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let error = nbd.serve_unix(image, path).await.unwrap_err();
        assert!(matches!(error, QemuNbdError::Listen { .. }), "{error}");
    });
}

/// Trap 6: `-k` wants an absolute path.
#[test]
fn qemu_nbd_itself_refuses_a_relative_socket_path() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let output = nbd.args(["-k", "s", &image]).run_bare().await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            output.stderr_text().contains("must be absolute"),
            "{}",
            output.tail()
        );
    });
}

/// Trap 7: a server never reports which port it got. We listen, so we know.
#[test]
fn tcp_needs_no_free_port_to_be_guessed() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw").export_name("x y");
        let (a, b) = tokio::join!(
            nbd.clone().serve_tcp(&image),
            nbd.read_only().serve_tcp(&image)
        );
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_ne!(a.uri(), b.uri());
        let Address::Tcp { host, port } = b.address() else {
            panic!("{:?}", b.address())
        };
        let client = Client::builder().connect_tcp(host, *port).await;
        assert!(client.is_err(), "the export has a name");
        let client = Client::builder().export("x y").connect_tcp(host, *port).await.unwrap();
        assert!(client.export().is_read_only());
        let again = a.restart().await.unwrap();
        assert_eq!(
            Client::builder().connect_uri(&again.uri()).await.unwrap().export().size,
            MIB
        );
    });
}

/// Trap 7: a port that is taken is the server's own error.
#[test]
fn a_taken_port_is_an_error_with_the_reason() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let listen = Listen::OwnTcp("127.0.0.1".into(), port);
        let error = nbd.serve(image, listen).await.unwrap_err().to_string();
        assert!(error.contains("Address already in use"), "{error}");
    });
}

/// Trap 8: with `-e 1`, which is qemu-nbd's own default, a second client waits for the first to
/// leave, and looks like a hang.
#[test]
fn a_second_client_waits_only_where_the_test_says_so() {
    each(|tools, dir| async move {
        let connect = |uri| async move {
            let patient = Deadlines {
                connect: LONG,
                handshake: LONG,
                request: LONG,
            };
            let builder = Client::builder().deadlines(patient);
            builder.connect_uri(&uri).await.unwrap()
        };
        let server = served(&tools, &dir).await;
        let (first, second) = (connect(server.uri()).await, connect(server.uri()).await);
        let (a, b) = (first.read(0, 512).await, second.read(0, 512).await);
        assert_eq!(a.unwrap(), b.unwrap());
        drop(server);

        // It reports what it does, in order.
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw").shared(1);
        let nbd = nbd.arg("--trace=nbd_*");
        let server = nbd.serve_unix(dir.path().join("raw"), dir.path().join("s"));
        let server = server.await.unwrap();
        let first = connect(server.uri()).await;
        let second = tokio::net::UnixStream::connect(dir.path().join("s")).await;
        let second = second.unwrap();
        // One that would serve both accepts the second when it sees this request.
        first.read(0, 512).await.unwrap();
        let second = tokio::spawn(async move { Client::builder().connect_stream(second).await });
        first.disconnect().await.unwrap();
        assert_eq!(second.await.unwrap().unwrap().export().size, MIB);
        let output = server.stop().await.unwrap();
        let log = output.stderr_text();
        let goodbye = log.find(".type = 0x2,");
        let begun: Vec<usize> =
            log.match_indices("nbd_negotiate_begin").map(|(at, _)| at).collect();
        // The first is our own readiness probe.
        let in_turn = begun.len() == 3 && goodbye.is_some_and(|at| at < begun[2]);
        assert!(in_turn, "this version serves two at once: {log}");
    });
}

/// Trap 8: without `-t` a server ends with its last client, but a probe is none.
#[test]
fn a_probe_neither_ends_nor_disturbs_a_server_for_one_client() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw").until_last_client().shared(1);
        let server = nbd.serve_unix(image, dir.path().join("s")).await.unwrap();
        let client = Client::builder().connect_uri(&server.uri()).await.unwrap();
        client.disconnect().await.unwrap();
        let output = server.wait().await.unwrap();
        assert_eq!(
            (output.status.code(), &*output.stderr_text()),
            (Some(0), "")
        );
    });
}

/// Trap 9: a daemon is not our child. Where nothing reaps it, it stays a zombie, and its PID is
/// misleading.
#[test]
fn a_daemon_is_known_to_have_ended_even_if_nobody_reaps_it() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let forked = nbd.fork(&image, dir.path().join("s")).await.unwrap();
        let daemon = forked.daemon().unwrap();
        assert!(!daemon.has_ended());
        kill(Pid::from_raw(daemon.pid() as i32), Signal::SIGKILL).unwrap();
        daemon.ended().await.unwrap();
        assert!(daemon.has_ended());
        assert!(
            dir.path().join("s").exists(),
            "a killed server leaves its socket"
        );
        drop(daemon);
        assert!(!dir.path().join("s").exists());
    });
}

/// Trap 10: nothing outlives a test that crashed.
#[test]
fn no_server_outlives_a_test_that_is_killed() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "traps::a_server_of_a_test_that_is_killed"])
            .args(["--ignored", "--nocapture"])
            .env(TO_BE_KILLED, &image)
            .env("TMPDIR", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut test = test.spawn().unwrap();
        let lines = BufReader::new(test.stdout.take().unwrap()).lines();
        let servers: Vec<OwnedFd> = lines
            .map(Result::unwrap)
            .filter_map(|line| Some(line.split_once("server=")?.1.parse().unwrap()))
            .take(all_tools().len())
            .map(|pid| {
                pidfd_open(
                    rustix::process::Pid::from_raw(pid).unwrap(),
                    PidfdFlags::empty(),
                )
            })
            .map(Result::unwrap)
            .collect();
        assert_eq!(servers.len(), all_tools().len());
        test.kill().unwrap();
        test.wait().unwrap();
        for server in servers {
            let mut ended = [PollFd::new(server.as_fd(), PollFlags::POLLIN)];
            let within = PollTimeout::try_from(LONG).unwrap();
            assert_eq!(poll(&mut ended, within), Ok(1), "it lives on");
        }
    });
}

const TO_BE_KILLED: &str = "NBD_TEST_TO_BE_KILLED";

#[test]
#[ignore = "run, and killed, by another test"]
fn a_server_of_a_test_that_is_killed() {
    let Some(image) = std::env::var_os(TO_BE_KILLED).map(PathBuf::from) else {
        return;
    };
    let dir = short_dir();
    let servers = all_tools().into_iter().map(|tools| {
        let nbd = QemuNbd::new(tools.nbd).format("raw").read_only();
        block_on(nbd.serve_unix(&image, dir.path().join(tools.name))).unwrap()
    });
    let servers: Vec<_> = servers.collect();
    for server in &servers {
        println!("server={}", server.pid());
    }
    // Until the other test ends, should it fail before it kills this one.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// Trap 11: descriptors leak into children, and a shared terminal or pipe changes its mode.
#[test]
fn a_server_inherits_its_socket_and_two_pipes_and_nothing_else_of_ours() {
    let open = |pid: &str| -> Vec<(String, String)> {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.ok()?;
            // One of another test may be closed by now.
            let what = std::fs::read_link(entry.path()).ok()?;
            Some((
                entry.file_name().into_string().ok()?,
                what.display().to_string(),
            ))
        };
        fds.filter_map(read).collect()
    };
    each(|tools, dir| async move {
        let first = served(&tools, &dir).await;
        let client = Client::builder().connect_uri(&first.uri()).await.unwrap();
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let second = nbd.serve_unix(dir.path().join("raw"), dir.path().join("t"));
        let second = second.await.unwrap();
        let ours: HashSet<String> = open("self")
            .into_iter()
            .map(|(_, what)| what)
            .filter(|what| what.starts_with("socket:") || what.starts_with("pipe:"))
            .collect();
        let theirs = open(&second.pid().to_string());
        let shared = theirs.iter().filter(|(_, what)| ours.contains(what));
        let mut shared: Vec<&str> = shared.map(|(fd, _)| &**fd).collect();
        shared.sort_unstable();
        assert_eq!(shared, ["1", "2"], "{theirs:?}");
        assert!(
            theirs.contains(&("0".into(), "/dev/null".into())),
            "{theirs:?}"
        );
        client.disconnect().await.unwrap();
    });
}

/// Trap 11: a pipe holds 64 KiB; an unread pipe blocks the server.
#[test]
fn a_chatty_server_is_not_stopped_by_a_full_pipe() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let nbd = nbd.arg("--trace").arg("nbd_*");
        let server = nbd.serve_unix(image, dir.path().join("s")).await.unwrap();
        let client = Client::builder().connect_uri(&server.uri()).await.unwrap();
        for n in 0..1000 {
            client.read(n * 512, 512).await.unwrap();
        }
        client.disconnect().await.unwrap();
        let output = server.stop().await.unwrap().check().unwrap();
        let printed = output.stderr.len() as u64 + output.truncated;
        assert!(
            printed > 128 << 10,
            "only {printed} bytes: {}",
            output.tail()
        );
    });
}

/// Trap 12: a qcow2 that is open for writing excludes others, a raw image does not.
#[test]
fn a_qcow2_stays_locked_exactly_as_long_as_its_server_lives() {
    each(|tools, dir| async move {
        let image = dir.path().join("q").to_str().unwrap().to_owned();
        img(&tools, ["create", "-q", "-f", "qcow2", &image, "1M"]).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("qcow2");
        let server = nbd.clone().serve_unix(&image, dir.path().join("s")).await.unwrap();
        let error = nbd.clone().serve_unix(&image, dir.path().join("t")).await.unwrap_err();
        assert!(error.to_string().contains("lock"), "{error}");
        server.kill().await.unwrap();
        let server = nbd.serve_unix(&image, dir.path().join("t")).await.unwrap();
        assert!(server.stop().await.unwrap().status.is_success());
    });
}

/// Trap 12: see above.
#[test]
fn a_raw_image_is_locked_by_nobody() {
    each(|tools, dir| async move {
        let first = served(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let second = nbd.serve_unix(dir.path().join("raw"), dir.path().join("t"));
        let second = second.await.unwrap();
        let (a, b) = (first.uri(), second.uri());
        let (a, b) = (
            Client::builder().connect_uri(&a).await,
            Client::builder().connect_uri(&b).await,
        );
        a.unwrap().write(0, vec![7; 512]).await.unwrap();
        assert_eq!(b.unwrap().read(0, 512).await.unwrap(), [7; 512]);
    });
}

/// Trap 13: `--list` only prints human-readable text; our own list returns the same.
#[test]
fn qemus_list_and_ours_agree() {
    each(|tools, dir| async move {
        let image = dir.path().join("q").to_str().unwrap().to_owned();
        img(&tools, ["create", "-q", "-f", "qcow2", &image, "1M"]).await;
        img(&tools, ["bitmap", "--add", &image, "b0"]).await;
        let nbd = QemuNbd::new(tools.nbd.clone());
        let server = nbd.clone().format("qcow2").read_only().bitmap("b0").allocation_depth();
        let server = server.export_name("n").description("some text");
        let server = server.serve_unix(image, dir.path().join("s")).await.unwrap();
        let theirs = nbd.list(server.address()).await.unwrap();
        let ours = nbd::list(&server.uri()).await.unwrap();
        assert_eq!((theirs.exports.len(), ours.exports.len()), (1, 1));
        let (theirs, ours) = (&theirs.exports[0], &ours.exports[0]);
        let info = ours.info.as_ref().unwrap();
        assert_eq!((&theirs.name, theirs.size), (&ours.name, Some(info.size)));
        // QEMU's own client does not list with extended headers, which add a flag.
        assert_eq!(theirs.flags & 0xfff, info.flags.bits() & 0xfff);
        assert_eq!(theirs.description.as_deref(), Some("some text"));
        assert_eq!(ours.comment, "some text");
        assert_eq!(theirs.contexts, ours.contexts);
        assert_eq!(ours.contexts.len(), 3);
        let sizes = info.block_sizes.unwrap();
        assert_eq!(
            theirs.block_sizes,
            Some([sizes.minimum, sizes.preferred, sizes.maximum])
        );
    });
}

/// Trap 13: a list that failed is known by its status.
#[test]
fn listing_nobody_fails_with_status_1() {
    each(|tools, dir| async move {
        let nbd = QemuNbd::new(tools.nbd.clone());
        let address = Address::Unix(dir.path().join("none"));
        assert_eq!(
            nbd.list_output(&address).await.unwrap().status.code(),
            Some(1)
        );
    });
}

/// Trap 14: a server drops a client that dawdles in the handshake, so no probe may be held open.
#[test]
fn a_client_that_dawdles_in_the_handshake_is_dropped() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let nbd = nbd.arg("--handshake-limit=1");
        let server = nbd.serve_unix(image, dir.path().join("s")).await;
        if tools.major < 10 {
            // There was no limit, and no such option.
            let error = server.unwrap_err().to_string();
            assert!(error.contains("handshake-limit"), "{error}");
            return;
        }
        let server = server.unwrap();
        let idle = tokio::net::UnixStream::connect(dir.path().join("s")).await;
        let (mut idle, mut said) = (idle.unwrap(), Vec::new());
        let reading = tokio::io::AsyncReadExt::read_to_end(&mut idle, &mut said);
        tokio::time::timeout(LONG, reading).await.unwrap().unwrap();
        assert_eq!(said.len(), nbd::proto::Greeting::NEWSTYLE_LEN);
        assert!(server.stop().await.unwrap().status.is_success());
    });
}

/// Trap 15: a daemon changes its directory.
#[test]
fn a_relative_image_is_found_though_the_daemon_changes_directory() {
    each(|tools, dir| async move {
        raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw").current_dir(dir.path());
        let server = nbd.serve_unix("raw", dir.path().join("s")).await.unwrap();
        assert!(server.stop().await.unwrap().status.is_success());
    });
}

/// Trap 16: on a unix socket there is no host name to compare a certificate with.
///
/// The certificates are for `disks.example`, last until 2120, and their key is no secret. Without
/// `dh-params.pem` older versions look for primes of their own, for as long as chance has it.
#[test]
fn a_list_over_tls_on_a_unix_socket_needs_the_name_in_the_certificate() {
    let tls = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");
    let creds = |end| format!("tls-creds-x509,id=tls0,endpoint={end},dir={tls}");
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone());
        let server = nbd.clone().format("raw").tls_creds("tls0");
        let server = server.object(creds("server") + ",verify-peer=off");
        let server = server.serve_unix(image, dir.path().join("s")).await.unwrap();
        let plain = Client::builder().connect(server.address()).await.unwrap_err();
        let required = matches!(plain.handshake(), Some(HandshakeError::TlsRequired { .. }));
        assert!(required, "{}", chain(&plain));
        let client = nbd.object(creds("client")).tls_creds("tls0");
        let nameless = client.list_output(server.address()).await.unwrap();
        assert_eq!(nameless.status.code(), Some(1));
        let text = nameless.stderr_text();
        assert!(
            text.contains("No hostname for certificate validation"),
            "{text}"
        );
        let named = client.arg("--tls-hostname=disks.example");
        let list = named.list(server.address()).await.unwrap();
        assert_eq!(list.exports[0].size, Some(MIB));
    });
}
