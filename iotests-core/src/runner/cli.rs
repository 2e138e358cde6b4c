//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::AnsiColor;
use clap::builder::{RangedI64ValueParser, Styles};
use clap::{Parser, ValueEnum};

use super::exit::Exit;
use super::filter::{self, Filter};
use super::jobs::Jobs;
use super::partition::Partition;
use super::report::TapVersion;
use crate::case::{Aio, Cache, Format, Protocol, UnknownName};
use crate::provision::{MIRROR_VARIABLE, Request};

/// Run QEMU's block-layer test cases.
///
/// Each case is run on every point of the matrix that is asked for: formats × protocols × cache × aio × backend. Every such instance
/// has an id, its own process and directory, and one verdict.
#[derive(Debug, Parser)]
#[command(name = "iotests", bin_name = super::called_as(), version, after_help = after_help(), max_term_width = 120, styles = STYLES)]
pub(crate) struct Cli {
    /// Cases to run: a part of the name, the whole name with * and ?, an upstream number (163), range (040-060), path
    /// (tests/qemu-iotests/163) or id (163::TestShrink512::test_empty_image), a place in a source file (shrink.rs:80), or the id of an
    /// instance. All cases when none is given.
    #[arg(value_name = "SELECTOR")]
    pub(crate) selectors: Vec<String>,
    /// What `iotests env` runs; a shell where it is left out.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    #[command(flatten)]
    pub(crate) what: WhatArgs,
    #[command(flatten)]
    pub(crate) matrix: MatrixArgs,
    #[command(flatten)]
    pub(crate) tools: ToolArgs,
    #[command(flatten)]
    pub(crate) scripts: ScriptArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) debug: DebugArgs,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

/// The heading of what is no run.
pub(crate) const INSTEAD_OF_RUNNING: &str = "Instead of running";

/// What to do, when it is not to run cases.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = INSTEAD_OF_RUNNING)]
#[group(multiple = false)]
pub(crate) struct WhatArgs {
    /// List the selected cases instead: as text for a person (name, description, formats, groups, upstream id, how the last run
    /// ended, and why something cannot run here), the ids of what runs here, or all of it as JSON.
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    pub(crate) list: Option<ListHow>,
    /// Print what the programs of QEMU can do.
    #[arg(long)]
    pub(crate) probe: bool,
    /// Read these records of runs (what --jsonl writes, and `records/` in the build folder holds), also of one that was cut short, and
    /// report on them: on the terminal, and with --junit, --tap and --html. Several are put together.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) from_record: Vec<PathBuf>,
    /// As `iotests env CASE -- COMMAND`: run the command, or a shell, in a directory and with the variables of one instance.
    #[arg(long, hide = true)]
    pub(crate) env: bool,
    /// What the word `explain` stands for.
    #[arg(long, hide = true)]
    pub(crate) explain: bool,
    /// What the word `merge` stands for.
    #[arg(long, hide = true)]
    pub(crate) merge: bool,
    /// Show the goldens that `--bless` wrote, one by one, and accept or reject them.
    #[arg(long)]
    pub(crate) review: bool,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListHow {
    /// For a person.
    Text,
    /// An id on each line.
    Ids,
    /// One JSON object for each instance, a line each.
    Json,
}

/// Which points of the matrix.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Matrix")]
pub(crate) struct MatrixArgs {
    /// Image formats, or `all`. Default: qcow2 and raw, and for a case that supports neither, what it supports.
    #[arg(short, long = "format", value_delimiter = ',', value_name = "FORMAT", value_parser = axis::<Format>)]
    pub(crate) formats: Vec<Choice<Format>>,
    /// Protocols, or `all`. Default: file.
    #[arg(short, long = "protocol", value_delimiter = ',', value_name = "PROTOCOL", value_parser = axis::<Protocol>)]
    pub(crate) protocols: Vec<Choice<Protocol>>,
    /// Cache modes, or `all`. Default: writeback.
    #[arg(short, long = "cache", value_delimiter = ',', value_name = "MODE", value_parser = axis::<Cache>)]
    pub(crate) caches: Vec<Choice<Cache>>,
    /// Aio modes, or `all`. Default: threads.
    #[arg(long = "aio", value_delimiter = ',', value_name = "MODE", value_parser = axis::<Aio>)]
    pub(crate) aios: Vec<Choice<Aio>>,
    /// Options for creating images of the format under test, such as `compat=0.10`.
    #[arg(
        short = 'o',
        long = "imgopts",
        value_delimiter = ',',
        value_name = "OPTION"
    )]
    pub(crate) imgopts: Vec<String>,
    /// Which process hosts the block layer, for cases that can use either.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) backend: BackendChoice,
    /// Only cases of these groups.
    #[arg(
        short,
        long = "group",
        alias = "groups",
        value_delimiter = ',',
        value_name = "GROUP"
    )]
    pub(crate) groups: Vec<String>,
    /// No cases of these groups.
    #[arg(
        short = 'x',
        long = "exclude-group",
        alias = "exclude-groups",
        value_delimiter = ',',
        value_name = "GROUP"
    )]
    pub(crate) exclude_groups: Vec<String>,
    /// None of these cases; the words are those of SELECTOR.
    #[arg(long, value_delimiter = ',', value_name = "SELECTOR")]
    pub(crate) exclude: Vec<String>,
    /// In the order of the names, only from the first that this means.
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) start_from: Option<String>,
    /// Only what failed when it last ran, in whichever run that was.
    #[arg(long)]
    pub(crate) failed: bool,
    /// Only what the last run was to run and did not, because it was stopped or killed.
    #[arg(long, conflicts_with = "failed")]
    pub(crate) unfinished: bool,
    /// Only the part K of N of what is selected, as 2/5: all parts together are all of it, and take about the same time by what the
    /// build folder recorded, so that all machines need the same. `auto` takes K and N from the variables of GitLab, Buildkite, CircleCI,
    /// GitHub Actions, Kubernetes or Slurm, and is all of it where there are none. `merge` puts the records together.
    #[arg(long, value_name = "K/N", value_parser = str::parse::<Partition>)]
    pub(crate) partition: Option<Partition>,
    /// Of what is selected, only what a change of QEMU since this revision can touch, committed or not: by format, job, tool and area. It is
    /// shown which file chose what; one that is not known chooses everything.
    #[arg(long, value_name = "REV")]
    pub(crate) since: Option<String>,
    /// The clone of QEMU that --since asks. Default: that of --upstream, else what --qemu-build was configured from.
    #[arg(long, value_name = "DIR")]
    pub(crate) qemu_source: Option<PathBuf>,
    /// Of what is selected, only what this expression means, such as `group(quick) & format(qcow2) & !name(/luks/) & last(fail)`.
    #[arg(short = 'E', long = "expression", value_name = "EXPRESSION", value_parser = str::parse::<Filter>, long_help = format!(
        "Of what is selected, only what this expression means, such as `group(quick) & format(qcow2) & !name(/luks/) & last(fail)`.\n\n{}",
        filter::HELP
    ))]
    pub(crate) expression: Option<Filter>,
}

/// Which programs of QEMU.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Programs of QEMU")]
pub(crate) struct ToolArgs {
    /// A build folder of QEMU.
    #[arg(long, value_name = "DIR")]
    pub(crate) qemu_build: Option<PathBuf>,
    /// The emulator (QEMU_PROG).
    #[arg(long, value_name = "FILE")]
    pub(crate) qemu: Option<PathBuf>,
    /// qemu-img (QEMU_IMG_PROG).
    #[arg(long, value_name = "FILE")]
    pub(crate) qemu_img: Option<PathBuf>,
    /// qemu-io (QEMU_IO_PROG).
    #[arg(long, value_name = "FILE")]
    pub(crate) qemu_io: Option<PathBuf>,
    /// qemu-nbd (QEMU_NBD_PROG).
    #[arg(long, value_name = "FILE")]
    pub(crate) qemu_nbd: Option<PathBuf>,
    /// qemu-storage-daemon (QSD_PROG).
    #[arg(long, value_name = "FILE")]
    pub(crate) qsd: Option<PathBuf>,
    /// The set of programs: `host` (flags, environment, build folder, PATH), the name of a provisioned prefix, several of these or `all`
    /// (every instance on each), or `auto`: each instance on the first set that can run it, host first.
    #[arg(long, value_name = "SET", default_value = "auto")]
    pub(crate) set: String,
    /// Fetch QEMUs of a distribution into private prefixes first: without a list the emulator of this machine's own package sources,
    /// if there is none yet. With a list those of Debian's archive, by version (7.2, 10.0.2), suite (trixie-backports), `newest` or `all`;
    /// `list` shows what there is, `prune` deletes all others.
    #[arg(long, value_name = "LIST", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) provision: Option<Request>,
    /// Ask the programs again what they can do, whatever the cache says.
    #[arg(long)]
    pub(crate) reprobe: bool,
}

/// Upstream's own tests.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Upstream's scripts")]
pub(crate) struct ScriptArgs {
    /// Run the scripts of this tree, as they stand there, instead of the cases of this program: a source tree of QEMU, its
    /// `tests/qemu-iotests`, or a build folder that links to it. Each has the name `upstream::040`, what upstream's `check` gives it,
    /// and its own reference output.
    #[arg(long, value_name = "DIR")]
    pub(crate) upstream: Option<PathBuf>,
    /// The interpreter for scripts in Python. Default: that of the build folder, else python3.
    #[arg(long, value_name = "FILE", env = "PYTHON")]
    pub(crate) python: Option<PathBuf>,
    /// Have qemu-io of scripts misalign its buffers.
    #[arg(long, requires = "upstream")]
    pub(crate) misalign: bool,
}

/// How to run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Running")]
pub(crate) struct RunArgs {
    /// How many instances run at once, or `auto`: from one for each processor up to four, as long as no process has to wait for one, or for
    /// memory. Default: `auto`; one for each processor with --upstream, whose scripts have time limits of their own; 1 with --gdb.
    #[arg(short, long, value_name = "N", value_parser = str::parse::<Jobs>)]
    pub(crate) jobs: Option<Jobs>,
    /// Run every instance N times.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number(1))]
    pub(crate) repeat: u32,
    /// Run every instance again and again, each time with the next seed, until this much time has passed: 90s, 10m, 8h. With
    /// --max-fail 1, until the first failure.
    #[arg(long = "for", value_name = "TIME", value_parser = time, conflicts_with = "repeat")]
    pub(crate) time: Option<Duration>,
    /// Try a failed instance up to N times more; a later pass makes it flaky.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number(0))]
    pub(crate) retries: u32,
    /// Multiply every deadline.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, env = "IOTESTS_TIMEOUT_SCALE", value_parser = scale)]
    pub(crate) timeout_scale: f64,
    /// Stop after N failures.
    #[arg(long, value_name = "N", value_parser = number(1))]
    pub(crate) max_fail: Option<u32>,
    /// A skip fails the run.
    #[arg(long)]
    pub(crate) deny_skips: bool,
    /// A run in which everything is skipped is a success.
    #[arg(long, conflicts_with = "deny_skips")]
    pub(crate) allow_all_skipped: bool,
    /// Keep the directories of passed instances as well.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Write goldens that differ for review instead of failing. Refused when CI is set.
    #[arg(long)]
    pub(crate) bless: bool,
    /// Where instances have their directories. Default: in the build folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// Where caches, records and provisioned prefixes are kept.
    #[arg(long, value_name = "DIR", env = "IOTESTS_BUILD_DIR")]
    pub(crate) build_dir: Option<PathBuf>,
    /// The seed of everything random. Default: drawn, and printed.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Let cases write outside their directories (they are confined where the kernel can).
    #[arg(long)]
    pub(crate) no_confine: bool,
}

/// Ways to look at what happens.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Debugging")]
pub(crate) struct DebugArgs {
    /// Show what cases log, and what they and the programs of QEMU print, as they do; also of what passes.
    #[arg(long)]
    pub(crate) print: bool,
    /// Show each step, message of QMP, start and end of a program, with its time; and what is printed.
    #[arg(long)]
    pub(crate) debug: bool,
    /// Stop before each step of the one instance that is selected, until a line is typed; without deadlines.
    #[arg(long, conflicts_with_all = ["jobs", "repeat", "time", "retries"])]
    pub(crate) step: bool,
    /// Run emulators and storage daemons under gdbserver, one instance at a time and without deadlines. It prints where it
    /// listens.
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "localhost:0",
        conflicts_with = "valgrind")]
    pub(crate) gdb: Option<String>,
    /// Run the programs of QEMU under valgrind; deadlines are multiplied by 20.
    #[arg(long)]
    pub(crate) valgrind: bool,
    /// Run the programs of QEMU under strace, each process with a file of its own in the directory of its instance, which is kept;
    /// deadlines are multiplied by 5.
    #[arg(long)]
    pub(crate) strace: bool,
    /// Run all programs of QEMU by this command, or one: `qemu-img=COMMAND`, `qemu-io=`, `qemu-nbd=`, `qsd=`, `qemu=`, `machines=`
    /// (both). `{}` in it is a file in the directory of the instance, which is kept: `--wrap 'qemu-img=ltrace -o {}'`.
    #[arg(long, value_name = "[PROGRAM=]COMMAND")]
    pub(crate) wrap: Vec<String>,
}

impl DebugArgs {
    /// Whether programs run otherwise than by themselves, or wait for a person.
    pub(crate) fn is_watched(&self) -> bool {
        let wrapped = self.valgrind || self.strace || !self.wrap.is_empty();
        self.step || self.gdb.is_some() || wrapped
    }
}

/// What to report, and where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Reports")]
pub(crate) struct ReportArgs {
    /// Write a JUnit report. Any report may go to `-`, standard output, on which there is nothing else then.
    #[arg(long, value_name = "PATH")]
    pub(crate) junit: Option<PathBuf>,
    /// Write a TAP report; to `-` a line as each instance ends, as meson and prove read it.
    #[arg(long, value_name = "PATH")]
    pub(crate) tap: Option<PathBuf>,
    /// The version of TAP: 13, which all readers know, or 14.
    #[arg(long, value_name = "VERSION", default_value_t = TapVersion::V13, value_parser = str::parse::<TapVersion>)]
    pub(crate) tap_version: TapVersion,
    /// Write the record of the run, a line of JSON for each event as it happens, also to this file.
    #[arg(long, value_name = "PATH")]
    pub(crate) jsonl: Option<PathBuf>,
    /// Write a page for a browser.
    #[arg(long, value_name = "PATH")]
    pub(crate) html: Option<PathBuf>,
    /// Show only what failed, is flaky or took much longer than the last times, and the summary.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Colours.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) color: ColorChoice,
}

/// Where defaults come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct ConfigArgs {
    /// Read defaults of options, profiles, and what holds for and is expected of cases from this file (docs/config.md). Of several
    /// the later ones are stronger. Default: `iotests.toml` in the current folder, if there is one.
    #[arg(long, value_name = "FILE", env = "IOTESTS_CONFIG")]
    pub(crate) config: Vec<PathBuf>,
    /// Read no such file.
    #[arg(long)]
    pub(crate) no_config: bool,
    /// Take the options of `[profile.NAME]` as well, which are stronger than `[defaults]`.
    #[arg(long, value_name = "NAME", env = "IOTESTS_PROFILE")]
    pub(crate) profile: Option<String>,
}

/// One value of an axis, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice<T> {
    /// Whatever a case supports.
    All,
    /// This one.
    One(T),
}

/// `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendChoice {
    /// Every one that a case can use.
    Auto,
    /// Emulators only.
    System,
    /// qemu-storage-daemon only.
    Qsd,
}

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal.
    Auto,
    /// Always.
    #[value(alias = "on")]
    Always,
    /// Never.
    #[value(alias = "off")]
    Never,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

fn axis<T: std::str::FromStr<Err = UnknownName>>(text: &str) -> Result<Choice<T>, String> {
    if text == "all" {
        Ok(Choice::All)
    } else {
        let one = text.parse().map(Choice::One);
        one.map_err(|error| filter::unknown_name(&error))
    }
}

/// A number of things: every repetition is planned beforehand, so that a slip of the finger must not eat up the memory.
fn number(least: i64) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(least..=MOST)
}

/// The most of what can be counted on the command line.
pub(crate) const MOST: i64 = 100_000;

/// A time with its unit.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let unit = |unit: char| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(60 * 60),
        _ => None,
    };
    let parsed = text.char_indices().last().and_then(|(end, last)| {
        let number: u64 = text[..end].parse().ok()?;
        number.checked_mul(unit(last)?)
    });
    match parsed {
        Some(seconds) if (1..=MOST_TIME).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err("it must be a number and a unit, such as 90s, 10m or 8h, up to 8760h".to_owned()),
    }
}

/// The longest time to run for, in seconds: a year.
const MOST_TIME: u64 = 8760 * 60 * 60;

/// Enough for any debugger and emulated processor; still a time that clocks can add up.
pub(crate) const MOST_SCALE: f64 = 10_000.0;

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if factor > 0.0 && factor <= MOST_SCALE => Ok(factor),
        _ => Err(format!("it must be a number above 0, up to {MOST_SCALE}")),
    }
}

fn after_help() -> String {
    let me = super::called_as();
    let mut text = format!(
        "Examples:
  {me}                       all that can run here
  {me} 163 -f qcow2          what covers upstream's test 163
  {me} shrink --list         cases with `shrink` in the name
  {me} -g quick --junit FILE a group, with a report
  {me} --provision           and with an emulator, fetched
  {me} --provision=all --set all   on every QEMU that Debian has
  {me} --qemu-build DIR      the programs of a build folder
  {me} --upstream ~/qemu 040 -f qcow2   upstream's own test 040
  {me} --failed              what failed the last time
  {me} --since master --qemu-build DIR   what my branch touches
  {me} env 163@qcow2 -- sh   a shell in a case's place
  {me} --partition 2/5       the second of five parts of it
  {me} merge DIR --html FILE one report on all parts
  {me} explain 163           what its cases do and need
  {me} new nbd::sees_holes   a new case, which passes
  {me} explore --for 1h      other random programs each time

Other words:
  {me} completions bash      or zsh, fish: what a shell needs to complete
  {me} man                   the manual page
  {me} '*merge*'             the word as a part of a name

Caches, records, provisioned programs and what failures leave are in one folder, which a run names first:
  --build-dir or IOTESTS_BUILD_DIR, else cargo's target folder if this program lies in one, else ~/.cache/qemu-iotests.

Environment:
  QEMU_PROG, QEMU_IMG_PROG, QEMU_IO_PROG, QEMU_NBD_PROG, QSD_PROG name programs, QEMU_OPTIONS and so on their options.
  The order is: flag, environment, build folder, PATH, provisioned prefix.
  Of options: command line, environment, profile, [defaults] of a configuration.
  {MIRROR_VARIABLE} is where Debian's archive is, if this machine's package sources do not name it.

Signals:
  Ctrl-C or SIGTERM ends what runs with a grace, the second kills, the third exits at once.
  SIGUSR1 shows how far the run is, and has every running case explain what it waits for, and go on; SIGABRT to a case process ends it as well.
  Enter on a terminal shows how far the run is.
  Ctrl-Z suspends all that runs, and its time.

Exit codes:
"
    );
    for (exit, meaning) in Exit::DOCUMENTED {
        text += &format!("  {:<4}{meaning}\n", exit.code());
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn formats_are_a_comma_list_and_an_unknown_one_is_named_with_the_known() {
        let cli = Cli::try_parse_from(["iotests", "-f", "qcow2,raw", "163"]).unwrap();
        assert_eq!(
            cli.matrix.formats,
            [Choice::One(Format::Qcow2), Choice::One(Format::Raw)]
        );
        let error = Cli::try_parse_from(["iotests", "-f", "qcow3"]).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()));
        assert!(
            error.to_string().contains("format `qcow3` is unknown; there is raw, qcow2"),
            "{error}"
        );
    }

    #[test]
    fn numbers_have_their_limits() {
        let parsed = |args: &[&str]| {
            let all = ["iotests"].iter().chain(args);
            Cli::try_parse_from(all).map_err(|error| error.to_string())
        };
        assert_eq!(parsed(&["-j4", "--repeat", "9"]).unwrap().run.repeat, 9);
        assert_eq!(parsed(&["-jauto"]).unwrap().run.jobs, Some(Jobs::Auto));
        assert_eq!(parsed(&["-j4"]).unwrap().run.jobs, Some(Jobs::Number(4)));
        for bad in [["--jobs", "0"], ["--repeat", "0"], ["--max-fail", "0"]] {
            let why = parsed(&bad).unwrap_err();
            assert!(why.contains("0 is not in 1..=100000"), "{why}");
        }
        assert!(parsed(&["--repeat", "100000"]).is_ok());
        assert!(parsed(&["--repeat", "100001"]).is_err());
    }

    #[test]
    fn a_time_has_a_unit_and_an_end() {
        let parsed = |text| Cli::try_parse_from(["iotests".to_owned(), format!("--for={text}")]);
        for (text, seconds) in [("90s", 90), ("10m", 600), ("8h", 28800)] {
            let time = parsed(text).unwrap().run.time;
            assert_eq!(time, Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "1",
            "h",
            "0s",
            "-1h",
            "1d",
            "1µ",
            "8761h",
            "99999999999999999999h",
        ] {
            let why = parsed(bad).unwrap_err().to_string();
            assert!(why.contains("a number and a unit"), "{bad}: {why}");
        }
        assert!(Cli::try_parse_from(["iotests", "--for", "1h", "--repeat", "2"]).is_err());
    }

    #[test]
    fn a_scale_must_be_positive_and_give_a_time_that_clocks_know() {
        for bad in ["0", "-1", "x", "inf", "NaN", "1e18", "1e300"] {
            assert!(
                Cli::try_parse_from(["iotests", "--timeout-scale", bad]).is_err(),
                "{bad}"
            );
        }
    }
}
