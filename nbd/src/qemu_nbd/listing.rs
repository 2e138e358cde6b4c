//! Reading what `qemu-nbd --list` prints.

use super::error::QemuNbdError;

/// The exports of a server, in qemu-nbd's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QemuListing {
    /// In the server's order.
    pub exports: Vec<QemuListedExport>,
}

/// One export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QemuListedExport {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// The flag word.
    pub flags: u16,
    /// Names of the flags, such as `readonly` or `multi`.
    pub flag_names: Vec<String>,
    /// Minimum, optimal and maximum block size in bytes.
    pub block_sizes: Option<[u32; 3]>,
    /// `64-bit` with extended headers (8.2 and later print it).
    pub transaction_size: Option<String>,
    /// Names of the metadata contexts.
    pub contexts: Vec<String>,
}

impl QemuListing {
    /// Reads what was printed.
    pub fn parse(text: &str) -> Result<QemuListing, QemuNbdError> {
        let mut exports: Vec<QemuListedExport> = Vec::new();
        let mut contexts_left = 0;
        for line in text.lines() {
            let bad = || QemuNbdError::Listing {
                line: line.to_owned(),
            };
            if let Some(quoted) = line.strip_prefix(" export: '") {
                let name = quoted.strip_suffix('\'').ok_or_else(bad)?.to_owned();
                exports.push(QemuListedExport {
                    name,
                    ..Default::default()
                });
                continue;
            }
            let Some(export) = exports.last_mut() else {
                // The head: how many exports there are.
                line.strip_prefix("exports available: ").ok_or_else(bad)?;
                continue;
            };
            if contexts_left > 0 {
                export.contexts.push(line.trim_start().to_owned());
                contexts_left -= 1;
                continue;
            }
            let (key, value) = line.trim_start().split_once(':').ok_or_else(bad)?;
            let value = value.trim();
            let number = || value.parse::<u32>().map_err(|_| bad());
            match key {
                "description" => export.description = Some(value.to_owned()),
                "size" => export.size = Some(value.parse().map_err(|_| bad())?),
                "flags" => {
                    let (word, names) = value.split_once(" (").ok_or_else(bad)?;
                    let hex = word.strip_prefix("0x").ok_or_else(bad)?;
                    export.flags = u16::from_str_radix(hex, 16).map_err(|_| bad())?;
                    let names = names.trim_end_matches(')').split_whitespace();
                    export.flag_names = names.map(str::to_owned).collect();
                }
                "min block" => export.block_sizes.get_or_insert_default()[0] = number()?,
                "opt block" => export.block_sizes.get_or_insert_default()[1] = number()?,
                "max block" => export.block_sizes.get_or_insert_default()[2] = number()?,
                "transaction size" => export.transaction_size = Some(value.to_owned()),
                "available meta contexts" => contexts_left = number()?,
                _ => return Err(bad()),
            }
        }
        Ok(QemuListing { exports })
    }
}
