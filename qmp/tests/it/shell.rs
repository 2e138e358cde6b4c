//! The program `qmp-shell`, on a terminal and from a pipe, with the mock at the other end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use qmp::mock::{Answer, Control, Monitor};
use serde_json::{Map, json};
use tokio::net::UnixListener;

use crate::events::event;

/// Far more than any answer needs.
const LIMIT: Duration = Duration::from_secs(120);

fn monitor() -> Monitor {
    Monitor::new()
        .on("query-qmp-schema", |_| {
            Answer::value(json!([
                {"name": "job-pause", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
                {"name": "0", "meta-type": "object", "members": [{"name": "id", "type": "str"}]},
                {"name": "str", "meta-type": "builtin", "json-type": "string"},
            ]))
        })
        .on("job-pause", |request| {
            Answer::value(json!({"paused": request.arguments["id"]}))
        })
        .on("set_password", |_| Answer::empty())
        .on("yank", |request| Answer::value(json!({"oob": request.oob})))
        .allow_oob("yank")
}

fn shell(folder: &Path, listener: &UnixListener) -> Command {
    let address = listener.local_addr().unwrap();
    let mut shell = Command::new(env!("CARGO_BIN_EXE_qmp-shell"));
    shell.arg(address.as_pathname().unwrap());
    shell.env("XDG_STATE_HOME", folder).env("TERM", "xterm");
    shell
}

async fn serve(listener: &UnixListener) -> Control {
    let (socket, _) = listener.accept().await.unwrap();
    let control = monitor().spawn_unix(socket);
    let first = control.next_request().await.unwrap();
    assert_eq!(first.name, "query-qmp-schema");
    control
}

/// The next command, as a line.
async fn next(control: &Control) -> String {
    let request = tokio::time::timeout(LIMIT, control.next_request()).await;
    let request = request.expect("in time").expect("a command");
    format!(
        "{} {}",
        request.name,
        serde_json::Value::Object(request.arguments)
    )
}

/// The master's end of a terminal.
struct Terminal {
    keys: File,
    seen: Arc<(Mutex<String>, Condvar)>,
}

impl Terminal {
    fn open() -> (Self, OwnedFd) {
        let pair = nix::pty::openpty(None, None).unwrap();
        let keys = File::from(pair.master);
        let mut screen = keys.try_clone().unwrap();
        let seen = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let shown = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It fails once the other end is closed everywhere.
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                shown.0.lock().unwrap().push_str(&text);
                shown.1.notify_all();
            }
        });
        (Self { keys, seen }, pair.slave)
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the text is shown, and drops everything up to it.
    fn expect(&self, text: &str) {
        let (seen, changed) = &*self.seen;
        let absent = |seen: &mut String| !seen.contains(text);
        let (mut seen, timeout) =
            changed.wait_timeout_while(seen.lock().unwrap(), LIMIT, absent).unwrap();
        assert!(!timeout.timed_out(), "{text:?} is not in {seen:?}");
        let end = seen.find(text).unwrap() + text.len();
        seen.drain(..end);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_it_completes_remembers_and_shows_events() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("qmp")).unwrap();
    for session in [1, 2] {
        let (mut terminal, theirs) = Terminal::open();
        let mut shell = shell(folder.path(), &listener);
        shell.stdin(theirs.try_clone().unwrap());
        shell.stdout(theirs.try_clone().unwrap()).stderr(theirs);
        let mut child = shell.spawn().unwrap();
        // It holds the other end of the terminal.
        drop(shell);
        let control = serve(&listener).await;
        terminal.expect("QEMU 10.0.2");
        terminal.expect("(QEMU) ");
        if session == 2 {
            // Up to what was executed in the session before: `quit`, then the one before it.
            terminal.press("\x1b[A\x1b[A\r");
            assert_eq!(next(&control).await, r#"job-pause {"id":"j1"}"#);
        } else {
            terminal.press("job-\ti\tj1\r");
            assert_eq!(next(&control).await, r#"job-pause {"id":"j1"}"#);
            terminal.expect("\"paused\": \"j1\"");
            control.event(event("STOP", Map::new().into()));
            terminal.expect("STOP");
            control.event(event("JOB_STATUS_CHANGE", json!({"id": "j1"})));
            terminal.expect(r#"JOB_STATUS_CHANGE {"id":"j1"}"#);
            // A secret is not remembered.
            terminal.press("set_password protocol=vnc password=secret\r");
            assert!(next(&control).await.starts_with("set_password"));
            terminal.press("\x1b[A\r");
            assert_eq!(next(&control).await, r#"job-pause {"id":"j1"}"#);
        }
        terminal.press("quit\r");
        assert_eq!(next(&control).await, "quit {}");
        let ended = tokio::task::spawn_blocking(move || child.wait()).await.unwrap();
        assert!(ended.unwrap().success());
    }
    let history = std::fs::read_to_string(folder.path().join("qmp-shell-history")).unwrap();
    assert!(
        history.contains("job-pause") && !history.contains("secret"),
        "{history}"
    );
}

async fn piped(lines: &str, during: impl AsyncFnOnce(Control)) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("qmp")).unwrap();
    let mut shell = shell(folder.path(), &listener);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let control = serve(&listener).await;
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    during(control).await;
    tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_pipe_it_executes_each_line_and_says_what_failed() {
    let lines = "# both forms\njob-pause id=j1\n\n{\"exec-oob\": \"yank\"}\n";
    let output = piped(lines, async |control| {
        assert_eq!(next(&control).await, r#"job-pause {"id":"j1"}"#);
        assert_eq!(next(&control).await, "yank {}");
        while control.next_request().await.is_some() {}
    });
    let output = output.await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        text.contains("\"paused\": \"j1\"") && text.contains("\"oob\": true"),
        "{text}"
    );

    let output = piped("nothing\nstop now\njob-pause id=2\n", async |control| {
        while control.next_request().await.is_some() {}
    });
    let output = output.await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("failed to execute nothing: CommandNotFound"),
        "{errors}"
    );
    assert!(errors.contains("expected key=value, found now"), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("\"paused\": 2"),
        "the next line is executed: {text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_that_leaves_ends_it_with_the_reason() {
    let output = piped("job-pause id=1\n", async |control| control.close()).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    // The second where it leaves before it has read the command.
    let reasons = ["QEMU closed the connection", "Connection reset by peer"];
    assert!(
        reasons.iter().any(|reason| errors.contains(reason)),
        "{errors}"
    );

    let absent =
        Command::new(env!("CARGO_BIN_EXE_qmp-shell")).arg("/nowhere/qmp").output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&absent.stderr),
        "qmp-shell: failed to connect: there is no socket /nowhere/qmp\n"
    );
    let usage = Command::new(env!("CARGO_BIN_EXE_qmp-shell")).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}
