//! One point of the matrix: a case, a row, a format and so on, with an id of its own.

use std::fmt;

use super::axes::{Aio, Backend, Cache, Format, Protocol};
use super::registry::Case;
use super::row::RowMeta;

/// A case on one point of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Instance {
    /// The case.
    pub case: &'static Case,
    /// The row of a family.
    pub row: Option<RowMeta>,
    /// The image format.
    pub format: Format,
    /// What carries the image.
    pub protocol: Protocol,
    /// The cache mode.
    pub cache: Cache,
    /// The aio mode.
    pub aio: Aio,
    /// Which process hosts the block layer, if the case needs one.
    pub backend: Option<Backend>,
}

impl Instance {
    /// The name of the case, and the row.
    pub fn name(&self) -> String {
        match self.row {
            Some(row) => format!("{}/{}", self.case.name(), row.name),
            None => self.case.name(),
        }
    }

    /// `name@format[.protocol][.cache=X][.aio=X][.system|.qsd]`; what is the default is left out, but the backend is named where there is one.
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

    /// All upstream ids: the case's and the row's.
    pub fn upstream(&self) -> impl Iterator<Item = &'static str> + use<> {
        let of_row = self.row.map_or("", |row| row.upstream).split_whitespace();
        of_row.chain(self.case.meta.upstream.iter().copied())
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.id())
    }
}
