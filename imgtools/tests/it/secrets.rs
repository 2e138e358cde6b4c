//! Secrets: in no log, no error, no message, and on no command line.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use imgtools::image::{ImageSpec, Secret};
use imgtools::img::QemuImg;
use imgtools::io::{IoError, QemuIo, Reply};
use imgtools::tools::{Tool, ToolKind};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{Folder, all_tools, create_luks};

/// Collects a log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

const SECRET: &str = "s3cr3t-0f-th1s-t3st";

/// The command lines of all processes that have the secret in them, but for those of this test.
fn exposed() -> Vec<String> {
    let read = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    };
    let lines = std::fs::read_dir("/proc").unwrap().flatten().filter_map(read);
    lines.filter(|line| line.contains(SECRET)).collect()
}

#[test]
fn a_secret_appears_in_no_log_no_error_and_no_command_line() {
    let Some(tools) = all_tools().pop() else {
        return;
    };
    // Events of the watcher thread need a global subscriber.
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone());
    tracing::subscriber::set_global_default(
        subscriber.with_max_level(tracing::Level::TRACE).finish(),
    )
    .unwrap();
    let folder = Folder::new();
    let secret = Secret::in_dir(folder.dir(), "sec0", SECRET).unwrap();
    let mut texts = vec![format!("{secret:?}")];

    // The real tools run under a shell that records all command lines meanwhile.
    let seen = folder.path("seen");
    let spy = format!("\"$@\" & tr '\\0' ' ' < /proc/$!/cmdline >> {seen}; wait $!");
    let wrapper = ["sh".to_owned(), "-c".to_owned(), spy, "sh".to_owned()];
    let (mut img, mut io) = (tools.img.tool().clone(), tools.io.tool().clone());
    (img.wrapper, io.wrapper) = (wrapper.to_vec(), wrapper.to_vec());
    let (img, io) = (QemuImg::new(img), QemuIo::new(io));

    let path = folder.path("luks");
    let create = img.create(&path).format("luks").size(1 << 20).secret(&secret);
    texts.push(format!("{create:?} {:?}", create.command().unwrap()));
    texts.push(format!("{:?}", create_luks(&create)));
    let image = ImageSpec::luks(&path, &secret);
    let session = io.open(&image);
    texts.push(format!("{session:?}"));
    // The session is alive while all command lines are looked at.
    let mut session = tools.io.open(&image).session_blocking().unwrap();
    assert_eq!(exposed(), [""; 0]);
    texts.push(format!(
        "{:?}",
        session.run_blocking("read 0 512").unwrap().check().unwrap()
    ));
    texts.push(format!("{session:?}"));
    session.quit_blocking().unwrap();
    texts.push(format!("{:?}", img.info(&image).run_blocking().unwrap()));

    // Errors: a wrong secret, and a tool that prints everything it knows.
    let wrong = Secret::new("sec0", "another one").unwrap();
    let error = img.map(ImageSpec::luks(&path, &wrong)).run_blocking().unwrap_err();
    assert!(error.to_string().contains("Invalid password"), "{error}");
    texts.push(format!("{error} {error:?}"));
    let mut babbler = tools.img.tool().clone();
    babbler.path = folder.script(
        "babbler",
        &format!("cat {} >&2; exit 1", secret.path().display()),
    );
    let error = QemuImg::new(babbler).info(&image).run_blocking().unwrap_err();
    let output = error.output().unwrap();
    assert!(
        output.stderr_text().contains(SECRET),
        "the tool does know it"
    );
    texts.push(format!("{error} {error:?} {output:?} {}", output.tail()));

    for text in texts {
        assert!(!text.contains(SECRET), "{text}");
    }
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("secret,id=sec0,file="), "{seen}");
    assert!(!seen.contains(SECRET), "{seen}");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("process started") && log.contains("babbler"),
        "{log}"
    );
    assert!(!log.contains(SECRET));
}

/// A session of a qemu-io that prints everything it reads.
#[test]
fn a_secret_that_a_session_prints_is_in_no_error() {
    let folder = Folder::new();
    let secret = Secret::in_dir(folder.dir(), "sec0", SECRET).unwrap();
    let script = "printf 'fake> '; while read x; do
        case \"$x\" in
            die*) echo \"$x\"; exit 3 ;;
            hang*) echo \"$x\"; read y ;;
            *) echo \"$x failed: $x\"; echo \"$x\" >&2 ;;
        esac
        printf 'fake> '
    done; echo; echo \"write failed: $*\"";
    let tool = Tool::new(ToolKind::Io, folder.script("fake", script));
    let open = QemuIo::new(tool).open(ImageSpec::options("x").secret(&secret));
    let mut session = open.session_blocking().unwrap();
    let mut errors = vec![
        session.run_blocking(SECRET).and_then(Reply::check).unwrap_err(),
        session.run_blocking(format!("die {SECRET}")).unwrap_err(),
    ];
    let mut session = open.session_blocking().unwrap();
    session.set_deadline(std::time::Duration::ZERO);
    errors.push(session.run_blocking(format!("hang {SECRET}")).unwrap_err());
    // A command list, of which one has failed.
    errors.push(open.command(SECRET).run_blocking().unwrap_err());
    for error in &errors {
        let text = format!("{error} {error:?}");
        assert!(!text.contains(SECRET), "{text}");
        assert!(text.contains("REDACTED"), "{text}");
    }
    let [
        IoError::Reply(reply),
        IoError::Died { .. },
        IoError::Deadline { .. },
        IoError::Commands { .. },
    ] = &errors[..]
    else {
        panic!("{errors:?}")
    };
    assert_eq!(
        reply.stderr,
        format!("{SECRET}\n"),
        "the data itself is kept"
    );
}
