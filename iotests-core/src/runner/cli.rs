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
/// Each case runs on every requested point of the matrix: formats × protocols × cache × aio ×
/// backend. Each such instance has an id, its own process and directory, and one verdict.
#[derive(Debug, Parser)]
#[command(name = "iotests", bin_name = super::called_as(), version, after_help = after_help(), max_term_width = 120, styles = STYLES)]
pub(crate) struct Cli {
    /// Cases to run: part of a name, a whole name with * and ?, an upstream number (163), range
    /// (040-060), path (tests/qemu-iotests/163) or id (163::TestShrink512::test_empty_image), a
    /// place in a source file (shrink.rs:80), or the id of an instance. Default: all cases.
    #[arg(value_name = "SELECTOR")]
    pub(crate) selectors: Vec<String>,
    /// The command that `iotests env` runs. Default: a shell.
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

/// The help heading of the options that run no cases.
pub(crate) const INSTEAD_OF_RUNNING: &str = "Instead of running";

/// What to do instead of running cases.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = INSTEAD_OF_RUNNING)]
#[group(multiple = false)]
pub(crate) struct WhatArgs {
    /// List the selected cases: as text (name, description, formats, groups, upstream id, the
    /// verdict of the last run, and why a case cannot run here), as ids of the instances that can
    /// run here, or all of it as JSON.
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    pub(crate) list: Option<ListHow>,
    /// Print what QEMU's programs can do.
    #[arg(long)]
    pub(crate) probe: bool,
    /// Report on these records of runs (written by --jsonl, or found in `iotests/records/` in the
    /// build folder): on the terminal, and with --junit, --tap and --html. A record may be
    /// incomplete. Several are merged.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) from_record: Vec<PathBuf>,
    /// Set by the command word `env`.
    #[arg(long, hide = true)]
    pub(crate) env: bool,
    /// Set by the command word `explain`.
    #[arg(long, hide = true)]
    pub(crate) explain: bool,
    /// Set by the command word `merge`.
    #[arg(long, hide = true)]
    pub(crate) merge: bool,
    /// Go through the goldens that --bless wrote, and accept or reject each.
    #[arg(long)]
    pub(crate) review: bool,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListHow {
    /// Text for people.
    Text,
    /// One id per line.
    Ids,
    /// One JSON object per instance and line.
    Json,
}

/// Which instances.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Matrix")]
pub(crate) struct MatrixArgs {
    /// Image formats, or `all`. Default: qcow2 and raw; a case that supports neither runs on those
    /// it supports.
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
    /// Creation options for images of the format under test, such as `compat=0.10`.
    #[arg(
        short = 'o',
        long = "imgopts",
        value_delimiter = ',',
        value_name = "OPTION"
    )]
    pub(crate) imgopts: Vec<String>,
    /// Which process hosts the block layer in cases that can use either.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) backend: BackendChoice,
    /// Only cases in these groups.
    #[arg(
        short,
        long = "group",
        alias = "groups",
        value_delimiter = ',',
        value_name = "GROUP"
    )]
    pub(crate) groups: Vec<String>,
    /// No cases in these groups.
    #[arg(
        short = 'x',
        long = "exclude-group",
        alias = "exclude-groups",
        value_delimiter = ',',
        value_name = "GROUP"
    )]
    pub(crate) exclude_groups: Vec<String>,
    /// None of these cases; takes the same forms as SELECTOR.
    #[arg(long, value_delimiter = ',', value_name = "SELECTOR")]
    pub(crate) exclude: Vec<String>,
    /// Only cases from the first that this matches, in the order of their names.
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) start_from: Option<String>,
    /// Only instances that failed the last time they ran.
    #[arg(long)]
    pub(crate) failed: bool,
    /// Only instances that the last run did not get to, because it was stopped or killed.
    #[arg(long, conflicts_with = "failed")]
    pub(crate) unfinished: bool,
    /// Only part K of N of the selection, such as 2/5. The parts are disjoint and take about
    /// equally long according to the times in the build folder, which must be the same on all
    /// machines. `auto` takes K and N from the environment of GitLab, Buildkite, CircleCI, GitHub
    /// Actions, Kubernetes or Slurm, and runs everything elsewhere. `merge` combines the records.
    #[arg(long, value_name = "K/N", value_parser = str::parse::<Partition>)]
    pub(crate) partition: Option<Partition>,
    /// Only selected cases that a change to QEMU since this revision, committed or not, may affect:
    /// by format, job, tool and area. Shows what each changed file selects; an unknown one selects
    /// everything.
    #[arg(long, value_name = "REV")]
    pub(crate) since: Option<String>,
    /// The clone of QEMU for --since. Default: that of --upstream, else the source of --qemu-build.
    #[arg(long, value_name = "DIR")]
    pub(crate) qemu_source: Option<PathBuf>,
    /// Only selected instances that match this expression, such as
    /// `group(quick) & format(qcow2) & !name(/luks/) & last(fail)`.
    #[arg(short = 'E', long = "expression", value_name = "EXPRESSION", value_parser = str::parse::<Filter>, long_help = format!(
        "Only selected instances that match this expression, such as `group(quick) & format(qcow2) & !name(/luks/) & last(fail)`.\n\n{}",
        filter::HELP
    ))]
    pub(crate) expression: Option<Filter>,
}

/// Which QEMU programs.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Programs of QEMU")]
pub(crate) struct ToolArgs {
    /// A QEMU build folder.
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
    /// The set of programs: `host` (from flags, environment, build folder and PATH), the name of a
    /// provisioned prefix, several of these or `all` (each instance runs on every set), or `auto`
    /// (on the first set that can run it, starting with host).
    #[arg(long, value_name = "SET", default_value = "auto")]
    pub(crate) set: String,
    /// First fetch packaged QEMUs into private prefixes: without a list, the emulator from this
    /// machine's own package sources, unless an earlier call fetched one. With a list, versions
    /// from Debian's archive, by version (7.2, 10.0.2), suite (trixie-backports), `newest` or
    /// `all`; `list` shows those available, `prune` deletes all others.
    #[arg(long, value_name = "LIST", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) provision: Option<Request>,
    /// Probe the programs again instead of using the cache.
    #[arg(long)]
    pub(crate) reprobe: bool,
}

/// Upstream's own tests.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Upstream's scripts")]
pub(crate) struct ScriptArgs {
    /// Run the unmodified scripts of this tree instead of this program's cases: a QEMU source tree,
    /// its `tests/qemu-iotests`, or a build folder that links to it. Scripts are named
    /// `upstream::040`, get the environment of upstream's `check`, and are compared with their
    /// reference output.
    #[arg(long, value_name = "DIR")]
    pub(crate) upstream: Option<PathBuf>,
    /// The interpreter for Python scripts. Default: that of the build folder, else python3.
    #[arg(long, value_name = "FILE", env = "PYTHON")]
    pub(crate) python: Option<PathBuf>,
    /// Make qemu-io misalign its buffers in scripts.
    #[arg(long, requires = "upstream")]
    pub(crate) misalign: bool,
}

/// How to run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Running")]
pub(crate) struct RunArgs {
    /// How many instances run at once, or `auto`: one per processor, and up to four while no
    /// process has to wait for a processor or memory. Default: `auto`; one per processor with
    /// --upstream, whose scripts have their own time limits; 1 with --gdb.
    #[arg(short, long, value_name = "N", value_parser = str::parse::<Jobs>)]
    pub(crate) jobs: Option<Jobs>,
    /// Run every instance N times.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number(1))]
    pub(crate) repeat: u32,
    /// Keep repeating all instances, each time with the next seed, for this long: 90s, 10m, 8h.
    /// With --max-fail 1, until the first failure.
    #[arg(long = "for", value_name = "TIME", value_parser = time, conflicts_with = "repeat")]
    pub(crate) time: Option<Duration>,
    /// Retry a failed instance up to N times; if it then passes, it is flaky.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number(0))]
    pub(crate) retries: u32,
    /// Multiply every deadline.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, env = "IOTESTS_TIMEOUT_SCALE", value_parser = scale)]
    pub(crate) timeout_scale: f64,
    /// Stop after N failures.
    #[arg(long, value_name = "N", value_parser = number(1))]
    pub(crate) max_fail: Option<u32>,
    /// Fail the run if anything is skipped.
    #[arg(long)]
    pub(crate) deny_skips: bool,
    /// Succeed even if everything is skipped.
    #[arg(long, conflicts_with = "deny_skips")]
    pub(crate) allow_all_skipped: bool,
    /// Keep the directories of passed instances too.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Write goldens that differ for --review instead of failing. Refused if CI is set.
    #[arg(long)]
    pub(crate) bless: bool,
    /// Where to create the instances' directories. Default: in the build folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// Where to keep caches, records and provisioned prefixes.
    #[arg(long, value_name = "DIR", env = "IOTESTS_BUILD_DIR")]
    pub(crate) build_dir: Option<PathBuf>,
    /// The seed for everything random. Default: a random one, which is printed.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Let cases write outside their directories, to which the kernel confines them if it can.
    #[arg(long)]
    pub(crate) no_confine: bool,
}

/// How to watch a case.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Debugging")]
pub(crate) struct DebugArgs {
    /// Show what cases log, and what they and QEMU's programs print, as it happens, even if they
    /// pass.
    #[arg(long)]
    pub(crate) print: bool,
    /// Show each step, QMP message, and program start and exit with its time, and all output.
    #[arg(long)]
    pub(crate) debug: bool,
    /// Wait for Enter before each step of the one selected instance; without deadlines.
    #[arg(long, conflicts_with_all = ["jobs", "repeat", "time", "retries"])]
    pub(crate) step: bool,
    /// Run emulators and storage daemons under gdbserver, one instance at a time and without
    /// deadlines. It prints the address it listens on.
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "localhost:0",
        conflicts_with = "valgrind")]
    pub(crate) gdb: Option<String>,
    /// Run QEMU's programs under valgrind; deadlines are multiplied by 20.
    #[arg(long)]
    pub(crate) valgrind: bool,
    /// Run QEMU's programs under strace, with one file per process in the instance's directory,
    /// which is kept; deadlines are multiplied by 5.
    #[arg(long)]
    pub(crate) strace: bool,
    /// Run QEMU's programs under this command, or only one of them: `qemu-img=COMMAND`, `qemu-io=`,
    /// `qemu-nbd=`, `qsd=`, `qemu=`, `machines=` (the latter two). `{}` is replaced by a file in
    /// the instance's directory, which is kept: `--wrap 'qemu-img=ltrace -o {}'`.
    #[arg(long, value_name = "[PROGRAM=]COMMAND")]
    pub(crate) wrap: Vec<String>,
}

impl DebugArgs {
    /// Whether programs run under a tool, or wait for a user.
    pub(crate) fn is_watched(&self) -> bool {
        let wrapped = self.valgrind || self.strace || !self.wrap.is_empty();
        self.step || self.gdb.is_some() || wrapped
    }
}

/// What to report, and where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Reports")]
pub(crate) struct ReportArgs {
    /// Write a JUnit report. One report may go to `-`, standard output, which then carries nothing
    /// else.
    #[arg(long, value_name = "PATH")]
    pub(crate) junit: Option<PathBuf>,
    /// Write a TAP report; to `-`, a line as each instance ends, for meson and prove.
    #[arg(long, value_name = "PATH")]
    pub(crate) tap: Option<PathBuf>,
    /// The TAP version: 13, which all readers support, or 14.
    #[arg(long, value_name = "VERSION", default_value_t = TapVersion::V13, value_parser = str::parse::<TapVersion>)]
    pub(crate) tap_version: TapVersion,
    /// Write the record of the run to this file too: each event as a line of JSON, as it happens.
    #[arg(long, value_name = "PATH")]
    pub(crate) jsonl: Option<PathBuf>,
    /// Write an HTML page.
    #[arg(long, value_name = "PATH")]
    pub(crate) html: Option<PathBuf>,
    /// Show only instances that failed, are flaky or took much longer than before, and the summary.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// When to use colours.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) color: ColorChoice,
}

/// Where defaults come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct ConfigArgs {
    /// Read option defaults, profiles, and settings and expectations of cases from this file
    /// (docs/config.md). Later files override earlier ones. Default: `iotests.toml` in the current
    /// folder, if it exists.
    #[arg(long, value_name = "FILE", env = "IOTESTS_CONFIG")]
    pub(crate) config: Vec<PathBuf>,
    /// Read no configuration file.
    #[arg(long)]
    pub(crate) no_config: bool,
    /// Also use the options in `[profile.NAME]`, which override `[defaults]`.
    #[arg(long, value_name = "NAME", env = "IOTESTS_PROFILE")]
    pub(crate) profile: Option<String>,
}

/// One value of an axis, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice<T> {
    /// All that a case supports.
    All,
    /// This one.
    One(T),
}

/// `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendChoice {
    /// Every process that a case can use.
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

/// A count, bounded because every repetition is planned in advance: a typing mistake must not eat
/// up the memory.
fn number(least: i64) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(least..=MAX_COUNT)
}

/// The largest count that the command line accepts.
pub(crate) const MAX_COUNT: i64 = 100_000;

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
        Some(seconds) if (1..=MAX_TIME).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err("it must be a number and a unit, such as 90s, 10m or 8h, up to 8760h".to_owned()),
    }
}

/// The longest time to run for, in seconds: a year.
const MAX_TIME: u64 = 8760 * 60 * 60;

/// Enough for any debugger or emulated CPU, and too little to overflow any deadline.
pub(crate) const MAX_SCALE: f64 = 10_000.0;

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if factor > 0.0 && factor <= MAX_SCALE => Ok(factor),
        _ => Err(format!("it must be a number above 0, up to {MAX_SCALE}")),
    }
}

fn after_help() -> String {
    let me = super::called_as();
    let mut text = format!(
        "Examples:
  {me}                       everything that can run here
  {me} 163 -f qcow2          what covers upstream's test 163
  {me} shrink --list         cases with `shrink` in the name
  {me} -g quick --junit FILE a group, with a report
  {me} --provision           with a fetched emulator
  {me} --provision=all --set all   on every QEMU that Debian has
  {me} --qemu-build DIR      with the programs of a build
  {me} --upstream ~/qemu 040 -f qcow2   upstream's own test 040
  {me} --failed              what failed the last time
  {me} --since master --qemu-build DIR   what my branch affects
  {me} env 163@qcow2 -- sh   a shell in a case's directory
  {me} --partition 2/5       the second of five parts
  {me} merge DIR --html FILE one report on all parts
  {me} explain 163           what its cases do and need
  {me} new nbd::sees_holes   a new case, which passes
  {me} explore --for 1h      different random programs each time

Other commands:
  {me} completions bash      or zsh, fish: shell completions
  {me} man                   the manual page
  {me} '*merge*'             cases with a command word in the name

Caches, records, provisioned programs and kept failures are in one folder, shown at the start of a run:
  --build-dir or IOTESTS_BUILD_DIR, else cargo's target folder if this program is in one, else ~/.cache/qemu-iotests.

Environment:
  QEMU_PROG, QEMU_IMG_PROG, QEMU_IO_PROG, QEMU_NBD_PROG, QSD_PROG name programs; QEMU_OPTIONS and so on, their options.
  Order of precedence for programs: flag, environment, build folder, PATH, provisioned prefix.
  Order of precedence for options: command line, environment, profile, [defaults] of a configuration.
  {MIRROR_VARIABLE} is the address of Debian's archive, if this machine's package sources do not have it.

Signals:
  Ctrl-C or SIGTERM ends running cases gracefully, a second one kills them, a third exits at once.
  SIGUSR1 shows the progress of the run, and makes every running case report what it is waiting for and continue. SIGABRT to a case process does the same but ends the case.
  Enter on a terminal shows the progress of the run.
  Ctrl-Z suspends everything that runs, and its deadlines.

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
    fn formats_are_a_comma_list_and_an_unknown_one_is_reported_with_the_known() {
        let cli = Cli::try_parse_from(["iotests", "-f", "qcow2,raw", "163"]).unwrap();
        assert_eq!(
            cli.matrix.formats,
            [Choice::One(Format::Qcow2), Choice::One(Format::Raw)]
        );
        let error = Cli::try_parse_from(["iotests", "-f", "qcow3"]).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()));
        assert!(
            error.to_string().contains("format `qcow3` is unknown; known: raw, qcow2"),
            "{error}"
        );
    }

    #[test]
    fn numbers_have_limits() {
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
    fn a_time_has_a_unit_and_a_limit() {
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
    fn a_scale_must_be_positive_and_bounded() {
        for bad in ["0", "-1", "x", "inf", "NaN", "1e18", "1e300"] {
            assert!(
                Cli::try_parse_from(["iotests", "--timeout-scale", bad]).is_err(),
                "{bad}"
            );
        }
    }
}
