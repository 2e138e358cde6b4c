//! The body of a script: runs it and judges its results.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::Signal;
use tokio::process::Command;

use super::{Language, ScriptSpec, environment, output};
use crate::author::golden;
use crate::author::origin::Origin;
use crate::author::{CaseResult, Failure, Test};
use crate::case::CaseFuture;
use crate::wire::{GoldenMode, Place};

/// The largest output that is compared: far more than any reference has.
const LARGEST: u64 = 64 << 20;

/// Runs a script as the body of a case.
pub(crate) fn body<'t>(test: &'t mut Test, own: &'t ScriptSpec) -> CaseFuture<'t> {
    Box::pin(run(test, own))
}

async fn run(test: &Test, own: &ScriptSpec) -> CaseResult {
    let script = &own.script;
    let failed = |text: String| {
        let place = Place {
            file: script.path.display().to_string(),
            line: 1,
        };
        Failure::from_origin(&Origin::known(place, None), text)
    };
    let spec = test.spec();
    let reference = output::reference(spec, own);
    let reference_name = name_of(&reference);
    if !reference.is_file() {
        return test.skip(format!("it has no reference output ({reference_name})"));
    }
    let left = |ending: &str| spec.test_dir.join(format!("{}{ending}", script.name));
    let found_file = left(".out.bad");
    let printed = fs::File::create(&found_file);
    let printed = printed.and_then(|file| Ok((file.try_clone()?, file)));
    let (stdout, stderr) =
        printed.map_err(|error| failed(format!("create {}: {error}", found_file.display())))?;

    let mut command = command(own, spec.debug);
    command
        .current_dir(script.path.parent().unwrap_or(&script.folder))
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .kill_on_drop(true);
    for (name, value) in environment::variables(spec, own) {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let status = match command.spawn() {
        Ok(mut child) => child.wait().await,
        Err(error) => Err(error),
    };
    drop(command);
    let status =
        status.map_err(|error| failed(format!("{} does not start: {error}", script.name)))?;

    let unreadable =
        |path: &Path, error: &io::Error| failed(format!("read {}: {error}", path.display()));
    let whole = |path: &Path| read(path).map_err(|error| unreadable(path, &error));
    let found = whole(&found_file)?;
    if spec.print {
        test.say_printed(&output::shown(output::cut(&found, 0)));
    }
    if !status.success() {
        let failure = failed(format!("{} {}", script.name, ended(status)));
        let expected = whole(&reference)?;
        return Err(match output::difference(&expected, &found) {
            Some(difference) => failure.with_difference(difference),
            None => failure,
        });
    }
    let note = |ending: &str| match read(&left(ending)) {
        Ok(bytes) => Ok(Some(output::shown(&bytes).trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&left(ending), &error)),
    };
    match note(".notrun")? {
        None => {}
        Some(reason) if reason.is_empty() => {
            return test.skip(format!("its {}.notrun says nothing", script.name));
        }
        Some(reason) => return test.skip(reason),
    }
    for part in note(".casenotrun")?.iter().flat_map(|text| text.lines()) {
        let part = part.trim().trim_start_matches("[case not run]").trim();
        if !part.is_empty() {
            test.not_run(part);
        }
    }
    let expected = whole(&reference)?;
    let Some(difference) = output::difference(&expected, &found) else {
        // An instance that passed needs no evidence.
        let _ = fs::remove_file(&found_file);
        return Ok(());
    };
    if spec.goldens == GoldenMode::Pending {
        let text = String::from_utf8(found).map_err(|_| {
            failed(format!(
                "the output cannot become {reference_name}: it is not UTF-8"
            ))
        })?;
        let path = golden::write_pending(&reference, &text, &spec.id, golden::is_ci())?;
        test.pending_golden(path);
        return Ok(());
    }
    let failure = failed(format!("the output differs from {reference_name}"));
    Err(failure.with_difference(difference))
}

/// The command of the script; for Python, with the chosen interpreter.
fn command(own: &ScriptSpec, debug: bool) -> Command {
    let mut command = match (&own.python, own.script.language) {
        (Some(python), Language::Python) => {
            let mut command = Command::new(python);
            command.arg(&own.script.path);
            command
        }
        _ => Command::new(&own.script.path),
    };
    if debug {
        command.arg("-d");
    }
    command
}

/// How it ended, as a phrase that follows its name.
fn ended(status: ExitStatus) -> String {
    match status.signal().map(Signal::try_from) {
        Some(Ok(signal)) => format!("was killed by {signal}"),
        Some(Err(_)) => format!("was killed: {status}"),
        None => format!("exited with status {}", status.code().unwrap_or_default()),
    }
}

/// Reads a file that a script left. Anything other than a regular file is neither waited for nor
/// accepted.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::options()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)?;
    let of = file.metadata()?;
    if !of.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if of.len() > LARGEST {
        let (has, most) = (of.len() >> 20, LARGEST >> 20);
        return Err(io::Error::other(format!(
            "it has {has} MiB, and at most {most} are compared"
        )));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LARGEST), &mut bytes)?;
    Ok(bytes)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
