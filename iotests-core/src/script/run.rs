//! The body of a script: from its start to what it left.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::Signal;
use tokio::process::Command;

use super::{Language, ScriptSpec, environment, output};
use crate::author::golden;
use crate::author::origin::Origin;
use crate::author::{CaseResult, Difference, Failure, Test};
use crate::case::CaseFuture;
use crate::wire::{GoldenMode, Place};

/// How much of what a script left a report takes.
const SHOWN: u64 = 4 << 20;

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

    let read = |path: &Path| {
        read(path).map_err(|error| failed(format!("read {}: {error}", path.display())))
    };
    let found = read(&found_file)?;
    if spec.print {
        test.say_printed(&output::shown(&found));
    }
    if !status.success() {
        let failure = failed(format!("{} {}", script.name, ended(status)));
        let expected = read(&reference)?;
        return Err(match output::difference(&expected, &found) {
            Some(diff) => failure.with_difference(difference_of(&expected, &found, diff)),
            None => failure,
        });
    }
    if let Some(reason) = note(&left(".notrun")) {
        return test.skip(reason);
    }
    for part in note(&left(".casenotrun"))
        .iter()
        .flat_map(|text| text.lines())
    {
        let part = part.trim().trim_start_matches("[case not run]").trim();
        if !part.is_empty() {
            test.not_run(part);
        }
    }
    let expected = read(&reference)?;
    let Some(difference) = output::difference(&expected, &found) else {
        // What is kept of an instance that passed is no evidence.
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
    Err(failed(format!("the output differs from {reference_name}"))
        .with_difference(difference_of(&expected, &found, difference)))
}

fn difference_of(expected: &[u8], found: &[u8], diff: String) -> Difference {
    Difference {
        expected: output::shown(expected),
        found: output::shown(found),
        diff: Some(diff),
    }
}

/// The script, for Python by the chosen interpreter.
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

/// How it ended, to be read after its name.
fn ended(status: ExitStatus) -> String {
    match status.signal().map(Signal::try_from) {
        Some(Ok(signal)) => format!("was killed by {signal}"),
        Some(Err(_)) => format!("was killed: {status}"),
        None => format!("exited with status {}", status.code().unwrap_or_default()),
    }
}

/// What a script wrote about itself, as text; `None` where it did not.
fn note(path: &Path) -> Option<String> {
    let bytes = read(path).ok()?;
    Some(output::shown(&bytes).trim().to_owned())
}

/// A file, but not more of it than a report could take.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(
        &mut io::Read::take(fs::File::open(path)?, SHOWN),
        &mut bytes,
    )?;
    Ok(bytes)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
