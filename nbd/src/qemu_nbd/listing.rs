//! Parsing the output of `qemu-nbd --list`.

use super::error::QemuNbdError;

/// The exports of a server, as printed by qemu-nbd.
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
    /// Its description, possibly of several lines.
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

/// The fields of an export in the order in which qemu-nbd prints them (`qemu_nbd_client_list` in
/// `qemu-nbd.c`). Only names and descriptions are free text that may contain newlines.
const FIELDS: [&str; 9] = [
    "description",
    "size",
    "flags",
    "min block",
    "opt block",
    "max block",
    "transaction size",
    "available meta contexts",
    "",
];

impl QemuListing {
    /// Parses the output.
    ///
    /// # Errors
    /// When a text of the server looks like the output around it, so that parsing is ambiguous;
    /// [`crate::list`] asks the server itself.
    pub fn parse(text: &str) -> Result<QemuListing, QemuNbdError> {
        let bad = |line: &str| QemuNbdError::Listing {
            line: line.to_owned(),
        };
        let mut lines = text.split('\n').peekable();
        let head = lines.next().unwrap_or_default();
        let count = head.strip_prefix("exports available: ").ok_or_else(|| bad(head))?;
        let count: usize = count.parse().map_err(|_| bad(head))?;
        let mut exports: Vec<Reading> = Vec::new();
        while let Some(line) = lines.next() {
            if line.is_empty() && lines.peek().is_none() {
                break;
            }
            if let Some(name) = line.strip_prefix(" export: '") {
                exports.push(Reading::new(name));
                continue;
            }
            let reading = exports.last_mut().ok_or_else(|| bad(line))?;
            reading.line(line).ok_or_else(|| bad(line))?;
        }
        if exports.len() != count {
            // A description holds a line that looks like the start of an export.
            return Err(bad(head));
        }
        let finish = |reading: Reading| {
            let name = reading.export.name.clone();
            reading.finish().ok_or_else(|| bad(&name))
        };
        let exports = exports.into_iter().map(finish).collect::<Result<_, _>>()?;
        Ok(QemuListing { exports })
    }
}

/// A partly parsed export.
struct Reading {
    export: QemuListedExport,
    /// The name continues up to its closing quote.
    in_name: bool,
    /// Position in [`FIELDS`] of the first field that may still come.
    next: usize,
    contexts_left: u32,
}

impl Reading {
    fn new(name: &str) -> Reading {
        let mut reading = Reading {
            export: QemuListedExport::default(),
            in_name: true,
            next: 0,
            contexts_left: 0,
        };
        reading.name(name);
        reading
    }

    fn name(&mut self, text: &str) {
        self.in_name = !text.ends_with('\'');
        self.export.name += text.strip_suffix('\'').unwrap_or(text);
    }

    /// Parses one line; `None` if that fails.
    fn line(&mut self, line: &str) -> Option<()> {
        if self.in_name {
            self.export.name.push('\n');
            self.name(line);
            return Some(());
        }
        if self.contexts_left > 0 {
            self.export.contexts.push(line.strip_prefix("   ")?.to_owned());
            self.contexts_left -= 1;
            return Some(());
        }
        let field = line.strip_prefix("  ").and_then(|line| line.split_once(':'));
        let place = field.and_then(|(key, _)| FIELDS.iter().position(|f| *f == key));
        match (field, place) {
            (Some((key, value)), Some(place)) if place >= self.next => {
                self.next = place + 1;
                self.field(key, value)
            }
            // A description continues up to the next field. Of a repeated field, one would be a
            // line of the description, but it is unknown which.
            (_, None) if self.next == 1 => {
                let text = self.export.description.as_mut()?;
                text.push('\n');
                text.push_str(line);
                Some(())
            }
            _ => None,
        }
    }

    fn field(&mut self, key: &str, value: &str) -> Option<()> {
        let export = &mut self.export;
        if key == "description" {
            export.description = Some(value.strip_prefix(' ').unwrap_or(value).to_owned());
            return Some(());
        }
        let value = value.trim();
        match key {
            "size" => export.size = Some(value.parse().ok()?),
            "flags" => {
                let (word, names) = value.split_once(" (")?;
                export.flags = u16::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
                let names = names.trim_end_matches(')').split_whitespace();
                export.flag_names = names.map(str::to_owned).collect();
            }
            "min block" => export.block_sizes.get_or_insert_default()[0] = value.parse().ok()?,
            "opt block" => export.block_sizes.get_or_insert_default()[1] = value.parse().ok()?,
            "max block" => export.block_sizes.get_or_insert_default()[2] = value.parse().ok()?,
            "transaction size" => export.transaction_size = Some(value.to_owned()),
            "available meta contexts" => self.contexts_left = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    /// `None` if something is missing.
    fn finish(self) -> Option<QemuListedExport> {
        (!self.in_name && self.contexts_left == 0).then_some(self.export)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "exports available: 1\n export: 'x'\n  description: ";
    const TAIL: &str = "\n  size:  4096\n  flags: 0x1 ( )\n  available meta contexts: 1\n   \
                        base:allocation\n";

    #[test]
    fn a_description_may_have_lines_of_any_kind() {
        for text in ["one\ntwo", "a: b\n\n c: d", "x\n", "see\n   base: there"] {
            let listing = QemuListing::parse(&format!("{HEAD}{text}{TAIL}")).unwrap();
            let export = &listing.exports[0];
            assert_eq!(export.description.as_deref(), Some(text));
            assert_eq!(export.size, Some(4096), "{text:?}");
            assert_eq!(export.contexts, ["base:allocation"]);
        }
    }

    #[test]
    fn a_name_may_have_lines_too() {
        let text = format!("exports available: 1\n export: 'a\nb'{TAIL}");
        assert_eq!(QemuListing::parse(&text).unwrap().exports[0].name, "a\nb");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_an_error() {
        for text in ["x\n  size:  5", "x\n export: 'y'", "x\n  flags: 0x0 ()"] {
            let read = QemuListing::parse(&format!("{HEAD}{text}{TAIL}"));
            assert!(read.is_err(), "{text:?}: {read:?}");
        }
    }
}
