//! One instance: a case, a row, a format and so on, with its own id.

use std::fmt;

use super::axes::{Aio, Backend, Cache, Format, Protocol};
use super::meta::Meta;
use super::registry::{Case, Registered};

/// A point of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The image format.
    pub format: Format,
    /// The protocol that provides access to the image.
    pub protocol: Protocol,
    /// The cache mode.
    pub cache: Cache,
    /// The aio mode.
    pub aio: Aio,
    /// The process that hosts the block layer, if the case needs one.
    pub backend: Option<Backend>,
}

/// A case at one point of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Instance {
    /// The case.
    pub case: &'static Case,
    /// The row of a family: the names of its rows, joined with `-`.
    pub row: Option<&'static str>,
    /// Its merged declaration.
    pub meta: &'static Meta,
    /// The image format.
    pub format: Format,
    /// The protocol that provides access to the image.
    pub protocol: Protocol,
    /// The cache mode.
    pub cache: Cache,
    /// The aio mode.
    pub aio: Aio,
    /// The process that hosts the block layer, if the case needs one.
    pub backend: Option<Backend>,
}

impl Instance {
    /// An entry of the registry at a point of the matrix.
    pub fn new(entry: &'static Registered, point: Point) -> Self {
        Self {
            case: entry.case,
            row: entry.row.as_deref(),
            meta: &entry.meta,
            format: point.format,
            protocol: point.protocol,
            cache: point.cache,
            aio: point.aio,
            backend: point.backend,
        }
    }

    /// Its point of the matrix.
    pub fn at(&self) -> Point {
        Point {
            format: self.format,
            protocol: self.protocol,
            cache: self.cache,
            aio: self.aio,
            backend: self.backend,
        }
    }

    /// The name of the case, followed by the row.
    pub fn name(&self) -> String {
        self.case.name_with(self.row)
    }

    /// `name@format[.protocol][.cache=X][.aio=X][.system|.qsd]`; defaults are omitted, except the
    /// backend, which is named if there is one.
    pub fn id(&self) -> String {
        format!("{}@{}", self.name(), self.point())
    }

    /// The part of the id after the `@`.
    pub fn point(&self) -> String {
        let mut point = self.format.to_string();
        if self.protocol != Protocol::File {
            point += &format!(".{}", self.protocol);
        }
        if self.cache != Cache::Writeback {
            point += &format!(".cache={}", self.cache);
        }
        if self.aio != Aio::Threads {
            point += &format!(".aio={}", self.aio);
        }
        if let Some(backend) = self.backend {
            point += &format!(".{backend}");
        }
        point
    }

    /// All upstream ids.
    pub fn upstream(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.meta.upstream.iter().map(String::as_str)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.id())
    }
}
