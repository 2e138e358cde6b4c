//! The matrix points: the requested values, matched with those that a case supports.

use crate::case::{Aio, Backend, Cache, Format, Host, Instance, Point, Protocol, Registered, Skip};
use crate::runner::cli::{BackendChoice, Choice, MatrixArgs};
use crate::runner::select::At;

use super::names_of;

/// A placeholder for instances of which only the name matters.
pub(crate) const ANY_POINT: Point = Point {
    format: Format::Raw,
    protocol: Protocol::File,
    cache: Cache::Writeback,
    aio: Aio::Threads,
    backend: None,
};

/// Additions to the default points, used if none are requested.
#[derive(Debug, Clone, Default)]
pub(crate) struct MorePoints {
    pub(crate) formats: Vec<Format>,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) caches: Vec<Cache>,
    pub(crate) aios: Vec<Aio>,
}

/// All matrix points of a case or row that a selector and the options allow. If the case supports
/// none of the requested values, these points are skips.
pub(super) fn expand(
    entry: &'static Registered,
    matrix: &MatrixArgs,
    more: &MorePoints,
    at: &At,
) -> Vec<(Instance, Option<Skip>)> {
    let meta = &entry.meta;
    let formats = Axis {
        name: "format",
        asked: &asked(at.format, &matrix.formats),
        supported: &meta.formats.to_vec(),
        default: &with(&[Format::Qcow2, Format::Raw], &more.formats),
        all_else: true,
    }
    .choose();
    let protocols = Axis {
        name: "protocol",
        asked: &asked(at.protocol, &matrix.protocols),
        supported: meta.protocols,
        default: &with(&[Protocol::File], &more.protocols),
        all_else: true,
    }
    .choose();
    let caches = Axis {
        name: "cache mode",
        asked: &asked(at.cache, &matrix.caches),
        supported: meta.caches,
        default: &with(&[Cache::Writeback], &more.caches),
        all_else: false,
    }
    .choose();
    let aios = Axis {
        name: "aio mode",
        asked: &asked(at.aio, &matrix.aios),
        supported: meta.aios,
        default: &with(&[Aio::Threads], &more.aios),
        all_else: false,
    }
    .choose();
    let backend = match at.backend {
        Some(Backend::System) => BackendChoice::System,
        Some(Backend::Qsd) => BackendChoice::Qsd,
        None => matrix.backend,
    };
    let backends = backends(backend, meta.host);
    let mut all = Vec::new();
    for (format, no_format) in &formats {
        for (protocol, no_protocol) in &protocols {
            for (cache, no_cache) in &caches {
                for (aio, no_aio) in &aios {
                    for (backend, no_backend) in &backends {
                        let point = Point {
                            format: *format,
                            protocol: *protocol,
                            cache: *cache,
                            aio: *aio,
                            backend: *backend,
                        };
                        let skips = [no_format, no_protocol, no_cache, no_aio, no_backend];
                        let skip = skips.into_iter().flatten().next().cloned();
                        all.push((Instance::new(entry, point), skip));
                    }
                }
            }
        }
    }
    all
}

/// The usual values, followed by new ones.
fn with<T: Copy + PartialEq>(usual: &[T], more: &[T]) -> Vec<T> {
    let mut all = usual.to_vec();
    for one in more {
        if !all.contains(one) {
            all.push(*one);
        }
    }
    all
}

/// The requested hosts that a case can run on.
fn backends(choice: BackendChoice, host: Host) -> Vec<(Option<Backend>, Option<Skip>)> {
    let all = host.backends();
    let asked = match choice {
        BackendChoice::Auto => None,
        BackendChoice::System => Some(Backend::System),
        BackendChoice::Qsd => Some(Backend::Qsd),
    };
    let wanted = |one: &&Option<Backend>| one.is_none() || asked.is_none() || **one == asked;
    let chosen: Vec<_> = all.iter().filter(wanted).map(|one| (*one, None)).collect();
    if !chosen.is_empty() {
        return chosen;
    }
    let supported: Vec<Backend> = all.iter().copied().flatten().collect();
    let skip = |asked: Backend| not_in_matrix("backend", &asked, &supported);
    vec![(asked, asked.map(skip))]
}

fn not_in_matrix<T: ToString>(axis: &str, asked: &T, supported: &[T]) -> Skip {
    Skip::NotInMatrix {
        axis: axis.to_owned(),
        asked: asked.to_string(),
        supported: names_of(supported),
    }
}

/// A value in a selector overrides the options.
fn asked<T: Copy>(at: Option<T>, options: &[Choice<T>]) -> Vec<Choice<T>> {
    match at {
        Some(value) => vec![Choice::One(value)],
        None => options.to_vec(),
    }
}

/// One axis of the matrix: the requested values, and those that a case supports.
struct Axis<'a, T> {
    name: &'static str,
    asked: &'a [Choice<T>],
    supported: &'a [T],
    default: &'a [T],
    /// Whether a case without the default values runs with all that it supports, or only the first.
    all_else: bool,
}

impl<T: Copy + PartialEq + ToString> Axis<'_, T> {
    /// The values to run with. If none of the requested ones is supported, they are skips.
    fn choose(&self) -> Vec<(T, Option<Skip>)> {
        let supports = |value: &T| self.supported.contains(value);
        let mut values: Vec<T> = Vec::new();
        if self.asked.is_empty() {
            values = self.default.iter().copied().filter(supports).collect();
            if values.is_empty() {
                let count = if self.all_else { usize::MAX } else { 1 };
                values = self.supported.iter().copied().take(count).collect();
            }
        }
        for choice in self.asked {
            let more = match choice {
                Choice::All => self.supported,
                Choice::One(value) => std::slice::from_ref(value),
            };
            let is_new = |value: &T| supports(value) && !values.contains(value);
            let more: Vec<T> = more.iter().copied().filter(is_new).collect();
            values.extend(more);
        }
        if !values.is_empty() {
            return values.into_iter().map(|value| (value, None)).collect();
        }
        let skip = |choice: &Choice<T>| match choice {
            Choice::One(value) => {
                let skip = not_in_matrix(self.name, value, self.supported);
                Some((*value, Some(skip)))
            }
            Choice::All => None,
        };
        self.asked.iter().filter_map(skip).collect()
    }
}
