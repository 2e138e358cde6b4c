//! Turns a request into prefixes: determines which exist, what the archive offers, what must be
//! created, and what can be deleted.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::apt::{Apt, Programs};
use super::distribution::Family;
use super::error::{ProvisionError, chain};
use super::files::{create_dir, file, file_names, remove_dir, write};
use super::offer::{EXTRA, Offer, TOOLS, begins_with, version_key};
use super::prefix::{self, Prefix, UNPACKING, emulator_package, installed};
use super::request::{Request, Wanted};
use super::source::{Archive, MIRROR_VARIABLE, SUITES, Source};

/// The folder of package lists, downloaded packages and the archive's offers, shared by all
/// prefixes.
const SHARED: &str = ".downloads";

/// How long a record of the archive's offers stays valid: a new package appears once in several
/// weeks.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// Provides the requested prefixes below `root` and returns them: existing ones are used, the
/// others are fetched, each version into its own prefix.
///
/// `note` gets a line about each step that takes time.
///
/// # Errors
///
/// See [`ProvisionError`]. No incomplete prefix is left behind, and existing ones stay usable.
pub fn provision(
    root: &Path,
    request: &Request,
    note: &mut dyn FnMut(&str),
) -> Result<Vec<Prefix>, ProvisionError> {
    // Needs neither the network nor a package manager.
    if *request == Request::Any
        && let Some(prefix) = newest_usable(root)
    {
        return Ok(vec![prefix]);
    }
    Provisioner::new(root, Surroundings::system(), note)?.run(request)
}

/// A readable overview of what is provisioned below `root`, and of what the archive offers.
///
/// # Errors
///
/// See [`ProvisionError`]. An unreachable archive is not an error; the text mentions it.
pub fn overview(root: &Path, note: &mut dyn FnMut(&str)) -> Result<String, ProvisionError> {
    Ok(Provisioner::new(root, Surroundings::system(), note)?.overview())
}

/// Settings that differ between machines, and in tests.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// The package manager, if there is one.
    pub(super) programs: Result<Programs, ProvisionError>,
    /// The archive; `None` for the one in the machine's own sources.
    pub(super) archive: Option<Archive>,
    /// The suites with their own QEMU, oldest first.
    pub(super) suites: Vec<String>,
}

impl Surroundings {
    fn system() -> Self {
        let family = Family::of_this_machine();
        let programs = match family {
            Family::Debian => Programs::system(),
            _ => Err(ProvisionError::Unsupported {
                command: family.install_command(),
            }),
        };
        let mirror = std::env::var(MIRROR_VARIABLE).ok();
        Self {
            programs,
            archive: mirror.map(|address| Archive::at(&address)),
            suites: SUITES.map(str::to_owned).to_vec(),
        }
    }
}

/// The archive's offers, and when they were seen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Catalogue {
    /// In seconds since 1970.
    seen: u64,
    offers: Vec<Offer>,
}

/// A source that could not be queried, and why.
type Silent = (String, ProvisionError);

pub(super) struct Provisioner<'a> {
    root: PathBuf,
    apt: Result<Apt, ProvisionError>,
    suites: Vec<String>,
    note: &'a mut dyn FnMut(&str),
    /// Held to the end: two concurrent runs would create the same prefix.
    _lock: Lock,
}

/// Locks the folder for as long as it lives.
struct Lock(File);

impl Lock {
    fn take(root: &Path, note: &mut dyn FnMut(&str)) -> Result<Self, ProvisionError> {
        let path = root.join(".lock");
        let lock = File::create(&path).map_err(file("create", &path))?;
        if lock.try_lock().is_err() {
            note("waiting for another run, which provisions already");
            lock.lock().map_err(file("lock", &path))?;
        }
        Ok(Self(lock))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave it locked by a forked process that still has our files open.
        let _ = self.0.unlock();
    }
}

impl<'a> Provisioner<'a> {
    pub(super) fn new(
        root: &Path,
        surroundings: Surroundings,
        note: &'a mut dyn FnMut(&str),
    ) -> Result<Self, ProvisionError> {
        create_dir(root)?;
        let root = fs::canonicalize(root).map_err(file("resolve", root))?;
        let lock = Lock::take(&root, note)?;
        // Hundreds of megabytes left by a killed run; the lock ensures that no other run uses them.
        for name in file_names(&root) {
            if name.starts_with(UNPACKING) {
                remove_dir(&root.join(name))?;
            }
        }
        let home = root.join(SHARED);
        let archive = surroundings.archive;
        let apt = surroundings.programs.and_then(|programs| {
            if archive.is_some() {
                return Apt::new(&home, programs, archive);
            }
            let apt = Apt::new(&home, programs.clone(), None)?;
            let archive = Archive::of_lists(&apt.own_lists()?);
            Apt::new(&home, programs, archive)
        });
        Ok(Self {
            root,
            apt,
            suites: surroundings.suites,
            note,
            _lock: lock,
        })
    }

    pub(super) fn run(&mut self, request: &Request) -> Result<Vec<Prefix>, ProvisionError> {
        match request {
            Request::Any => {
                if let Some(prefix) = newest_usable(&self.root) {
                    return Ok(vec![prefix]);
                }
                let offer = self.ask(&Source::Machine)?;
                self.make(&offer).map(|prefix| vec![prefix])
            }
            Request::These { wanted, prune } => {
                let made = self.these(wanted)?;
                if *prune {
                    self.prune(&made)?;
                }
                Ok(made)
            }
            Request::List => Ok(Vec::new()),
        }
    }

    fn these(&mut self, wanted: &[Wanted]) -> Result<Vec<Prefix>, ProvisionError> {
        let usable: Vec<Prefix> =
            installed(&self.root).into_iter().filter(Prefix::is_usable).collect();
        // With a recent record of the offers, there may be nothing to do.
        let lately = self.catalogue();
        if let Ok(all) = self.resolve(wanted, &usable, &lately, &[])
            && let Some(all) = all.into_iter().map(Choice::there).collect()
        {
            return Ok(all);
        }
        let (offers, silent) = self.ask_all(wanted)?;
        let choices = self.resolve(wanted, &usable, &offers, &silent)?;
        let (mut made, mut failed): (Vec<Prefix>, Vec<Silent>) = (Vec::new(), Vec::new());
        for choice in choices {
            match choice {
                Choice::There(prefix) => made.push(prefix),
                Choice::Make(offer) => match self.make(&offer) {
                    Ok(prefix) => made.push(prefix),
                    Err(error) => failed.push((offer.source.to_string(), error)),
                },
            }
        }
        match failed.len() {
            0 => {}
            1 => return Err(failed.remove(0).1),
            _ => return Err(ProvisionError::several(failed)),
        }
        // A package's version may be less precise than the request.
        for version in wanted {
            if let Wanted::Version(version) = version
                && !made.iter().any(|prefix| begins_with(&prefix.name, version))
            {
                let names: Vec<&str> = made.iter().map(|prefix| &*prefix.name).collect();
                return Err(ProvisionError::NotOffered {
                    wanted: version.clone(),
                    offers: names.join(", "),
                });
            }
        }
        made.sort_by_key(|prefix| version_key(&prefix.name));
        made.dedup();
        Ok(made)
    }

    /// Finds the matching prefixes and offers.
    fn resolve(
        &self,
        wanted: &[Wanted],
        usable: &[Prefix],
        offers: &[Offer],
        silent: &[Silent],
    ) -> Result<Vec<Choice>, ProvisionError> {
        let mut choices: Vec<Choice> = Vec::new();
        let mut add = |offer: &Offer| {
            let is_it = |prefix: &&Prefix| {
                let origin = prefix.origin();
                origin.is_some_and(|origin| offer.is(&prefix.name, &origin.offer.package))
            };
            let choice = match usable.iter().find(is_it) {
                Some(prefix) => Choice::There(prefix.clone()),
                None => Choice::Make(offer.clone()),
            };
            if !choices.iter().any(|other| other.is_same(&choice)) {
                choices.push(choice);
            }
        };
        let mut there = Vec::new();
        for one in wanted {
            match one {
                Wanted::Version(version) => {
                    let mut newest = usable.iter().rev();
                    if let Some(prefix) = newest.find(|prefix| begins_with(&prefix.name, version)) {
                        there.push(Choice::There(prefix.clone()));
                        continue;
                    }
                    let matching = offers.iter().filter(|offer| offer.may_be(version));
                    match newest_offer(matching) {
                        Some(offer) => add(offer),
                        None => return Err(self.not_offered(one, offers, silent)),
                    }
                }
                Wanted::Suite(suite) => {
                    let source = Source::Suite(suite.clone());
                    match offers.iter().find(|offer| offer.source == source) {
                        Some(offer) => add(offer),
                        None => return Err(self.not_offered(one, offers, silent)),
                    }
                }
                Wanted::Newest | Wanted::All => {
                    // The contents of a suite that did not answer are unknown.
                    let missing = self.suites.iter().find(|suite| {
                        let source = Source::Suite((*suite).clone());
                        !offers.iter().any(|offer| offer.source == source)
                    });
                    if let Some(suite) = missing {
                        let suite = Wanted::Suite(suite.clone());
                        return Err(self.not_offered(&suite, offers, silent));
                    }
                    let ours = offers.iter().filter(|offer| match &offer.source {
                        Source::Suite(suite) => self.suites.contains(suite),
                        Source::Machine => false,
                    });
                    if *one == Wanted::All {
                        ours.for_each(&mut add);
                    } else if let Some(offer) = newest_offer(ours) {
                        add(offer);
                    }
                }
            }
        }
        there.extend(choices);
        Ok(there)
    }

    /// Why nothing is offered: the source could not be queried, or has other versions.
    fn not_offered(&self, wanted: &Wanted, offers: &[Offer], silent: &[Silent]) -> ProvisionError {
        let silent: Vec<&Silent> = silent
            .iter()
            .filter(|(source, _)| match wanted {
                Wanted::Suite(suite) => source == suite,
                _ => true,
            })
            .collect();
        if let Some((source, error)) = silent.first() {
            return ProvisionError::Silent {
                source_name: source.clone(),
                why: chain(error),
            };
        }
        let offered = offers.iter().map(|offer| format!("{} ({})", offer.upstream(), offer.source));
        ProvisionError::NotOffered {
            wanted: wanted.to_string(),
            offers: offered.collect::<Vec<_>>().join(", "),
        }
    }

    /// The offers of the last query, if it is recent.
    fn catalogue(&self) -> Vec<Offer> {
        let text = fs::read(self.root.join(SHARED).join(CATALOGUE)).unwrap_or_default();
        let known: Catalogue = serde_json::from_slice(&text).unwrap_or_default();
        let age = now().checked_sub(known.seen);
        match age {
            Some(age) if age < FRESH.as_secs() => known.offers,
            _ => Vec::new(),
        }
    }

    /// Queries every suite that may be relevant. Suites that cannot be queried are returned with
    /// the reason.
    fn ask_all(&mut self, wanted: &[Wanted]) -> Result<(Vec<Offer>, Vec<Silent>), ProvisionError> {
        let mut suites = Vec::new();
        let all = |one: &Wanted| !matches!(one, Wanted::Suite(_));
        if wanted.iter().any(all) {
            suites.clone_from(&self.suites);
        }
        for one in wanted {
            if let Wanted::Suite(suite) = one
                && !suites.contains(suite)
            {
                suites.push(suite.clone());
            }
        }
        // An error of the package manager itself is one error, not one for each suite.
        self.apt()?;
        let (mut offers, mut silent) = (Vec::new(), Vec::new());
        for suite in suites {
            match self.ask(&Source::Suite(suite.clone())) {
                Ok(offer) => offers.push(offer),
                Err(error) => silent.push((suite, error)),
            }
        }
        if silent.is_empty() && wanted.iter().any(all) {
            let known = Catalogue {
                seen: now(),
                offers: offers.clone(),
            };
            let text = serde_json::to_vec_pretty(&known).unwrap_or_default();
            write(&self.root.join(SHARED).join(CATALOGUE), &text)?;
        }
        Ok((offers, silent))
    }

    fn ask(&mut self, source: &Source) -> Result<Offer, ProvisionError> {
        (self.note)(&format!("reading the package lists of {source}"));
        let apt = self.apt()?;
        apt.update(source)?;
        let emulator = emulator_package();
        let rows = apt.versions(source, &[emulator, TOOLS, EXTRA])?;
        Offer::choose(source, emulator, &rows).map_err(|why| ProvisionError::NoPackage {
            source_name: source.to_string(),
            why,
            command: Family::Debian.install_command(),
        })
    }

    /// The package manager, or why there is none.
    fn apt(&mut self) -> Result<&Apt, ProvisionError> {
        match &mut self.apt {
            Ok(apt) => Ok(apt),
            Err(error) => Err(std::mem::replace(error, ProvisionError::NoArchive)),
        }
    }

    fn make(&mut self, offer: &Offer) -> Result<Prefix, ProvisionError> {
        match &self.apt {
            Ok(apt) => prefix::make(&self.root, apt, offer, self.note),
            Err(_) => Err(ProvisionError::NoArchive),
        }
    }

    /// Deletes the prefixes that are not in `kept`, and the packages that none of the kept ones was
    /// made from.
    fn prune(&mut self, kept: &[Prefix]) -> Result<(), ProvisionError> {
        for prefix in installed(&self.root) {
            if !kept.iter().any(|one| one.name == prefix.name) {
                (self.note)(&format!("deleting the set {}", prefix.name));
                remove_dir(&prefix.path)?;
            }
        }
        if kept.is_empty() {
            return remove_dir(&self.root.join(SHARED));
        }
        let origins = kept.iter().filter_map(Prefix::origin);
        let archives: Vec<PathBuf> = origins.flat_map(|origin| origin.archives).collect();
        match &self.apt {
            Ok(apt) => apt.forget_archives(&archives),
            Err(_) => Ok(()),
        }
    }

    fn overview(&mut self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for prefix in installed(&self.root) {
            let from = prefix.origin().map_or_else(
                || "of unknown origin, made anew when it is asked for".to_owned(),
                |origin| format!("{} from {}", origin.offer.package, origin.offer.source),
            );
            let state = if prefix.is_usable() {
                ""
            } else {
                ", not usable"
            };
            let _ = writeln!(text, "there     {:<10} {from}{state}", prefix.name);
        }
        if text.is_empty() {
            text = "there     none\n".to_owned();
        }
        match self.ask_all(&[Wanted::All]) {
            Ok((offers, silent)) => {
                for offer in offers {
                    let (upstream, package) = (offer.upstream(), &offer.package);
                    let _ = writeln!(
                        text,
                        "offered   {upstream:<10} {package} from {}",
                        offer.source
                    );
                }
                for (source, error) in silent {
                    let _ = writeln!(text, "not known            {source}: {}", chain(&error));
                }
            }
            Err(error) => {
                let _ = writeln!(text, "not known            {}", chain(&error));
            }
        }
        text
    }
}

/// The file with the offers.
const CATALOGUE: &str = "offers.json";

/// What a request resolves to.
#[derive(Debug, Clone)]
enum Choice {
    There(Prefix),
    Make(Offer),
}

impl Choice {
    fn there(self) -> Option<Prefix> {
        match self {
            Self::There(prefix) => Some(prefix),
            Self::Make(_) => None,
        }
    }

    /// Two suites may have the same version; one of them is enough.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::There(one), Self::There(other)) => one == other,
            (Self::Make(one), Self::Make(other)) => one.is(other.upstream(), &other.package),
            _ => false,
        }
    }
}

/// The newest offer; of several with the newest version, the first.
fn newest_offer<'a>(offers: impl Iterator<Item = &'a Offer>) -> Option<&'a Offer> {
    offers.reduce(|newest, offer| {
        if version_key(offer.upstream()) > version_key(newest.upstream()) {
            offer
        } else {
            newest
        }
    })
}

/// The newest prefix whose emulator and tools start.
fn newest_usable(root: &Path) -> Option<Prefix> {
    installed(root).into_iter().rev().find(Prefix::is_usable)
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_owner_whoever_still_has_the_file_open() {
        let root = tempfile::tempdir().unwrap();
        let mut notes = 0;
        let mut note = |_: &str| notes += 1;
        let lock = Lock::take(root.path(), &mut note).unwrap();
        let forked = lock.0.try_clone().unwrap();
        drop(lock);
        Lock::take(root.path(), &mut note).unwrap();
        drop(forked);
        assert_eq!(notes, 0);
    }
}
