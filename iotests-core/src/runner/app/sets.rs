//! The sets of programs: fetched, found and probed.

use tempfile::TempDir;

use super::{App, print};
use crate::case::{Backend, Capabilities};
use crate::provision::{self, ProvisionError};
use crate::runner::cli::ToolArgs;
use crate::runner::error::{RunError, chain};
use crate::runner::instance::SetFiles;
use crate::runner::plan::Able;
use crate::runner::probe::{Cache, Note, probe};
use crate::runner::sets::{self, HOST, ToolSet, is_named};
use crate::runner::{Exit, called_as};

/// The sets, and what each can do.
pub(super) struct Sets {
    pub(super) able: Vec<Able>,
    pub(super) files: Vec<SetFiles>,
    pub(super) found: Vec<ToolSet>,
    /// Hold probe results that could not be cached, for the duration of the run.
    _spares: Vec<TempDir>,
}

impl App {
    /// `--provision=list`.
    pub(super) fn provisioned(&self) -> Result<Exit, RunError> {
        let mut note = |text: &str| self.progress(text);
        match provision::overview(&self.places.prefixes(), &mut note) {
            Ok(text) => print(&text).map(|()| Exit::Passed),
            Err(error) => Err(RunError::Provision(unprefixed(&chain(&error)))),
        }
    }

    pub(super) fn require_tools(&self, sets: &Sets) -> Result<(), RunError> {
        if sets.found.iter().any(|set| !set.tools.is_empty()) {
            return Ok(());
        }
        Err(RunError::NoQemu(format!(
            "there are none in PATH, and no prefix is provisioned. Run either\n  {}\nor\n  {} --provision",
            provision::install_command(),
            called_as(),
        )))
    }

    /// A failed provisioning is only a note if some set has an emulator.
    pub(super) fn without_provision(
        &self,
        error: &ProvisionError,
        sets: &Sets,
    ) -> Result<(), RunError> {
        let why = chain(error);
        let has_emulator = |set: &&Able| set.capabilities.host(Backend::System).is_some();
        if let Some(set) = sets.able.iter().find(has_emulator) {
            let why: Vec<&str> = why.split_whitespace().collect();
            self.progress(&format!(
                "note: using the emulator of the set `{}`, because none could be provisioned: {}",
                set.name,
                why.join(" ")
            ));
            return Ok(());
        }
        let mut text = unprefixed(&why);
        let command = provision::install_command();
        if !text.contains(command) {
            text += &format!("\nor install QEMU with\n  {command}");
        }
        Err(RunError::Provision(text))
    }

    pub(super) fn sets(&self, args: &ToolArgs) -> Result<Sets, RunError> {
        let cache = Cache::new(self.places.probes());
        let (versions, corrupt) = cache.versions();
        if let Some(warning) = &corrupt {
            self.warn(warning);
        }
        let found = sets::find(args, &self.places.prefixes(), &versions, &mut |text| {
            self.warn(text)
        })?;
        let (mut able, mut files, mut spares) = (Vec::new(), Vec::new(), Vec::new());
        for set in &found {
            if let Some(mixed) = set.mixed() {
                self.warn(&mixed);
            }
            let known = probe(set, &cache, args.reprobe, &mut |note| match note {
                Note::Progress(text) => self.progress(&text),
                Note::Warning(text) => self.warn(&text),
            })?;
            if set.name == HOST {
                named_tools_work(args, &known.capabilities)?;
            }
            let accelerators =
                known.capabilities.host(Backend::System).map(|facts| facts.usable_accelerators());
            if let (true, Err(error)) = (corrupt.is_some(), cache.keep_versions(set)) {
                self.warn(&format!("failed to {error}"));
            }
            spares.extend(known.spare);
            let default_machine = known
                .capabilities
                .host(Backend::System)
                .and_then(|facts| facts.default_machine())
                .map(|machine| machine.alias.clone().unwrap_or_else(|| machine.name.clone()));
            files.push(SetFiles {
                default_machine: default_machine.unwrap_or_default(),
                tools: set.tools.clone(),
                capabilities: known.file,
                accelerators: accelerators
                    .unwrap_or_default()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            });
            able.push(Able {
                name: set.name.clone(),
                capabilities: known.capabilities,
            });
        }
        Ok(Sets {
            able,
            files,
            found,
            _spares: spares,
        })
    }
}

/// A program the user named that cannot be used is an error, not a reason to skip.
fn named_tools_work(args: &ToolArgs, capabilities: &Capabilities) -> Result<(), RunError> {
    let mut broken = capabilities.broken.iter();
    match broken.find(|(kind, _)| is_named(**kind, args)) {
        Some((_, broken)) => Err(RunError::NamedTool(format!(
            "{} does not work: {}",
            broken.path.display(),
            broken.message
        ))),
        None => Ok(()),
    }
}

/// Strips the "failed to" that is added to every error anyway.
pub(super) fn unprefixed(text: &str) -> String {
    text.strip_prefix("failed to ").unwrap_or(text).to_owned()
}
