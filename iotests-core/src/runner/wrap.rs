//! Wrappers that QEMU's programs run under: a debugger, a tracer, or any command the user gives.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, thread};

use imgtools::process::ProcessError;
use imgtools::tools::{Tool, ToolKind};
use machine::Wrapper;

use super::cli::DebugArgs;
use super::error::{RunError, io as io_error};

/// Replaced by a file in the instance's directory, which is kept: `strace -o {}`.
const PLACE: &str = "{}";

/// The words to put before each program's command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wrap {
    words: BTreeMap<ToolKind, Vec<String>>,
    /// Those that can be tried, because they do not wait for a debugger.
    trials: Vec<(Vec<ToolKind>, Vec<String>)>,
    /// The factor for deadlines.
    pub(crate) slowdown: f64,
}

impl Wrap {
    /// The wrappers that the command line requests. Upstream scripts run valgrind and gdbserver
    /// themselves, as variables tell them.
    pub(crate) fn of(args: &DebugArgs, for_scripts: bool) -> Result<Self, RunError> {
        let mut wrap = Self {
            words: BTreeMap::new(),
            trials: Vec::new(),
            slowdown: 1.0,
        };
        if args.valgrind {
            wrap.add_known(&ToolKind::ALL, &Wrapper::valgrind(), for_scripts)?;
            // At this point `words` holds only valgrind, or nothing for scripts.
            wrap.trials =
                wrap.words.iter().map(|(kind, words)| (vec![*kind], words.clone())).collect();
        }
        if let Some(address) = &args.gdb {
            wrap.add_known(&MACHINES, &Wrapper::gdbserver(address), for_scripts)?;
        }
        if args.strace {
            let words = ["strace", "-ff", "-o", PLACE].map(str::to_owned);
            wrap.add(&ToolKind::ALL, &words)?;
            wrap.trials.push((ToolKind::ALL.to_vec(), words.to_vec()));
            let strace = Wrapper::Strace {
                output: None,
                options: Vec::new(),
            };
            wrap.slowdown = wrap.slowdown.max(strace.slowdown());
        }
        for text in &args.wrap {
            let (kinds, words) = parse(text)?;
            wrap.add(&kinds, &words)?;
            wrap.trials.push((kinds, words));
        }
        Ok(wrap)
    }

    /// Tries each program under its wrapper with `--version`, so that what cannot run at all is
    /// reported once, before the run.
    pub(crate) fn try_out<'t>(
        &self,
        tools: impl Iterator<Item = &'t BTreeMap<ToolKind, Tool>>,
    ) -> Result<(), RunError> {
        if self.trials.is_empty() {
            return Ok(());
        }
        let folder =
            tempfile::tempdir().map_err(io_error("create a folder in", env::temp_dir()))?;
        let tools: Vec<&Tool> = tools.flat_map(BTreeMap::values).collect();
        let mut trials = Vec::new();
        for (kinds, words) in &self.trials {
            for tool in tools.iter().filter(|tool| kinds.contains(&tool.kind)) {
                let file = folder.path().join(trials.len().to_string());
                let file = file.display().to_string();
                let words: Vec<String> =
                    words.iter().map(|word| word.replace(PLACE, &file)).collect();
                trials.push((*tool, words));
            }
        }
        // In parallel, because each takes seconds under valgrind.
        thread::scope(|scope| {
            let trials = trials.iter().map(|(tool, words)| scope.spawn(|| trial(tool, words)));
            let trials: Vec<_> = trials.collect();
            trials.into_iter().try_for_each(|trial| {
                let tried = trial.join();
                tried.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    fn add_known(
        &mut self,
        kinds: &[ToolKind],
        wrapper: &Wrapper,
        for_scripts: bool,
    ) -> Result<(), RunError> {
        self.slowdown = self.slowdown.max(wrapper.slowdown());
        if for_scripts {
            return Ok(());
        }
        let words = wrapper.words().into_iter();
        let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        self.add(kinds, &words)
    }

    /// Adds a wrapper. The first one added is nearest to the program.
    fn add(&mut self, kinds: &[ToolKind], words: &[String]) -> Result<(), RunError> {
        let program = words.first().map(String::as_str).unwrap_or_default();
        if !can_be_run(program) {
            return Err(RunError::Usage(format!(
                "there is no program `{program}` to run QEMU's under; install it, or give its path"
            )));
        }
        for kind in kinds {
            let before = self.words.entry(*kind).or_default();
            before.splice(0..0, words.iter().cloned());
        }
        Ok(())
    }

    /// Whether there are no wrappers.
    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The programs with their wrappers, for an instance. Wrappers write to files in `folder`,
    /// which is created.
    pub(crate) fn around(
        &self,
        tools: &BTreeMap<ToolKind, Tool>,
        folder: &Path,
    ) -> Result<BTreeMap<ToolKind, Tool>, RunError> {
        if !self.is_empty() {
            fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
        }
        let wrapped = |(kind, tool): (&ToolKind, &Tool)| {
            let mut tool = tool.clone();
            if let Some(words) = self.words.get(kind) {
                let file = folder.join(kind.name()).display().to_string();
                let words = words.iter().map(|word| word.replace(PLACE, &file));
                tool = tool.with_wrapper(words);
            }
            (*kind, tool)
        };
        Ok(tools.iter().map(wrapped).collect())
    }
}

/// A trial that runs this long is waiting for something, such as a debugger.
const TRIAL: Duration = Duration::from_secs(30);

fn trial(tool: &Tool, words: &[String]) -> Result<(), RunError> {
    let mut alone = tool.clone().with_wrapper(words);
    alone.options.clear();
    let ran = alone.command().arg("--version").deadline(TRIAL).run_blocking();
    let why = match ran {
        // The program ran, even if valgrind found errors in it.
        Ok(output) if output.status.is_success() || output.stdout_text().contains("version") => {
            return Ok(());
        }
        Ok(output) => format!("it {}{}", output.status, output.tail()),
        Err(ProcessError::Spawn { source, .. }) => source.to_string(),
        // It is still running.
        Err(_) => return Ok(()),
    };
    Err(RunError::NamedTool(format!(
        "`{} {} --version` does not run: {why}",
        words.join(" "),
        tool.path.display(),
    )))
}

/// Writes a wrapped program as a shell script, for scripts, which take only a program's path.
pub(crate) fn as_program(tool: &Tool, folder: &Path) -> Result<PathBuf, RunError> {
    let mut words = tool.wrapper.clone();
    words.push(tool.path.display().to_string());
    let line = shlex::try_join(words.iter().map(String::as_str)).map_err(|error| {
        RunError::Usage(format!(
            "`{}` cannot be run by a shell: {error}",
            words.join(" ")
        ))
    })?;
    // Keep the program's name: it appears in messages, and scripts derive the architecture from it.
    let name = tool.path.file_name().unwrap_or_default();
    let path = folder.join(name);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, format!("#!/bin/sh\nexec {line} \"$@\"\n")))
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .map_err(io_error("write the wrapper", &path))?;
    Ok(path)
}

/// The programs that host the block layer.
const MACHINES: [ToolKind; 2] = [ToolKind::StorageDaemon, ToolKind::System];

/// Parses `COMMAND` for all programs, or `qemu-img=COMMAND` for one.
fn parse(text: &str) -> Result<(Vec<ToolKind>, Vec<String>), RunError> {
    let (kinds, command) = match text.split_once('=') {
        Some((name, command)) if !name.contains([' ', '/', '-']) || name.starts_with("qemu") => {
            (kinds(name)?, command)
        }
        _ => (ToolKind::ALL.to_vec(), text),
    };
    match shlex::split(command) {
        Some(words) if !words.is_empty() => Ok((kinds, words)),
        _ => Err(RunError::Usage(format!(
            "--wrap `{text}` names no command, or has an unclosed quote"
        ))),
    }
}

fn kinds(name: &str) -> Result<Vec<ToolKind>, RunError> {
    let known = |kind: &&ToolKind| kind.name() == name;
    match name {
        "machines" => Ok(MACHINES.to_vec()),
        "qsd" => Ok(vec![ToolKind::StorageDaemon]),
        "qemu" => Ok(vec![ToolKind::System]),
        name => match ToolKind::ALL.iter().find(known) {
            Some(kind) => Ok(vec![*kind]),
            None => {
                let all: Vec<&str> = ToolKind::ALL.iter().map(|kind| kind.name()).collect();
                Err(RunError::Usage(format!(
                    "--wrap: there is no program `{name}`; known: {}, machines (the last two); without a name, it is for all",
                    all.join(", ")
                )))
            }
        },
    }
}

fn can_be_run(program: &str) -> bool {
    let is_program = |path: &Path| {
        path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    if program.contains('/') {
        return is_program(Path::new(program));
    }
    let path: OsString = env::var_os("PATH").unwrap_or_default();
    !program.is_empty() && env::split_paths(&path).any(|folder| is_program(&folder.join(program)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_for_one_program_or_for_all() {
        let read = |text: &str| parse(text).map_err(|error| error.to_string());
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(read("nice"), Ok((ToolKind::ALL.to_vec(), words("nice"))));
        assert_eq!(
            read("qemu-img=strace -o {}"),
            Ok((vec![ToolKind::Img], words("strace -o {}")))
        );
        assert_eq!(
            read("machines=nice"),
            Ok((MACHINES.to_vec(), words("nice")))
        );
        assert_eq!(
            read("env A=b"),
            Ok((ToolKind::ALL.to_vec(), words("env A=b"))),
            "an equals sign of the command"
        );
        for (text, wanted) in [
            (
                "qemu-imgs=nice",
                "there is no program `qemu-imgs`; known: qemu-img",
            ),
            ("", "names no command"),
            ("qemu-img=", "names no command"),
            ("nice 'x", "names no command"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn words_are_put_before_the_program_with_a_separate_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut wrap = Wrap::default();
        wrap.add(&[ToolKind::Img], &["sh", "-o", "{}"].map(str::to_owned)).unwrap();
        wrap.add(&[ToolKind::Img], &["env".to_owned()]).unwrap();
        assert!(wrap.add(&[ToolKind::Img], &["no-such-program".to_owned()]).is_err());
        let tools = [(ToolKind::Img, Tool::new(ToolKind::Img, "/q/qemu-img"))];
        let wrapped = wrap.around(&tools.into(), folder.path()).unwrap();
        let file = folder.path().join("qemu-img").display().to_string();
        let img = &wrapped[&ToolKind::Img];
        assert_eq!(img.wrapper, ["env", "sh", "-o", &file]);
        let program = as_program(img, &folder.path().join("bin")).unwrap();
        let text = fs::read_to_string(program).unwrap();
        assert_eq!(
            text,
            format!("#!/bin/sh\nexec env sh -o {file} /q/qemu-img \"$@\"\n")
        );
    }
}
