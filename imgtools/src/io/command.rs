//! The commands of qemu-io, typed.

use std::fmt;

/// The longest line, in bytes, that a session accepts. qemu-io reads at most 1023 bytes including
/// the newline; it would interpret the rest as another command.
pub const MAX_LINE: usize = 1022;

/// A command for qemu-io. Offsets and lengths are in bytes.
///
/// A text converts into one, so that `"read 0 64k"` works as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoCommand {
    verb: String,
    flags: Vec<String>,
    operands: Vec<String>,
}

/// Why a text cannot be sent as one command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// It is too long.
    #[error(
        "failed to send a command of {length} bytes to qemu-io: it reads {MAX_LINE} at most (`{start}…`)"
    )]
    TooLong {
        /// Its length.
        length: usize,
        /// Its first characters.
        start: String,
    },
    /// It contains a newline, which would split it into two commands, or a NUL, which would
    /// truncate it.
    #[error("failed to send a command to qemu-io: it has a newline or NUL in it (`{}`)", .0.escape_default())]
    ControlCharacter(String),
}

impl IoCommand {
    fn new(verb: &str, operands: impl IntoIterator<Item = impl ToString>) -> IoCommand {
        let operands = operands.into_iter().map(|operand| operand.to_string()).collect();
        IoCommand {
            verb: verb.to_owned(),
            flags: Vec::new(),
            operands,
        }
    }

    fn vector(verb: &str, offset: u64, lengths: impl IntoIterator<Item = u64>) -> IoCommand {
        IoCommand::new(verb, [offset].into_iter().chain(lengths))
    }

    fn plain(verb: &str) -> IoCommand {
        IoCommand::new(verb, [""; 0])
    }

    /// `read`: reads and, with [`IoCommand::pattern`], verifies.
    pub fn read(offset: u64, length: u64) -> IoCommand {
        IoCommand::new("read", [offset, length])
    }

    /// `readv`: reads into several buffers.
    pub fn readv(offset: u64, lengths: impl IntoIterator<Item = u64>) -> IoCommand {
        IoCommand::vector("readv", offset, lengths)
    }

    /// `write`: writes the pattern (qemu-io's own default is 0xcd).
    pub fn write(offset: u64, length: u64) -> IoCommand {
        IoCommand::new("write", [offset, length])
    }

    /// `writev`: writes from several buffers.
    pub fn writev(offset: u64, lengths: impl IntoIterator<Item = u64>) -> IoCommand {
        IoCommand::vector("writev", offset, lengths)
    }

    /// `write -z`: writes zeroes without data.
    pub fn write_zeroes(offset: u64, length: u64) -> IoCommand {
        IoCommand::write(offset, length).flag("-z")
    }

    /// `aio_read`: starts a read. Its result is printed later, at the latest by
    /// [`IoCommand::aio_flush`], and does not affect the exit status.
    pub fn aio_read(offset: u64, length: u64) -> IoCommand {
        IoCommand::new("aio_read", [offset, length])
    }

    /// `aio_write`: starts a write; see [`IoCommand::aio_read`].
    pub fn aio_write(offset: u64, length: u64) -> IoCommand {
        IoCommand::new("aio_write", [offset, length])
    }

    /// `aio_flush`: waits for all started requests, and flushes.
    pub fn aio_flush() -> IoCommand {
        IoCommand::plain("aio_flush")
    }

    /// `flush`.
    pub fn flush() -> IoCommand {
        IoCommand::plain("flush")
    }

    /// `discard`.
    pub fn discard(offset: u64, length: u64) -> IoCommand {
        IoCommand::new("discard", [offset, length])
    }

    /// `truncate`: changes the size.
    pub fn truncate(size: u64) -> IoCommand {
        IoCommand::new("truncate", [size])
    }

    /// `alloc`: how much of a range is allocated in this image.
    pub fn alloc(offset: u64, length: u64) -> IoCommand {
        IoCommand::new("alloc", [offset, length])
    }

    /// `map`: what is allocated in this image.
    pub fn map() -> IoCommand {
        IoCommand::plain("map")
    }

    /// `length`: the size, in human units.
    pub fn length() -> IoCommand {
        IoCommand::plain("length")
    }

    /// `info`: the format's own information.
    pub fn info() -> IoCommand {
        IoCommand::plain("info")
    }

    /// `reopen`: reopens with other options, such as `-r`.
    pub fn reopen(options: &str) -> IoCommand {
        IoCommand::new("reopen", (!options.is_empty()).then_some(options))
    }

    /// `break`: suspends the next request at this event of blkdebug.
    pub fn break_at(event: &str, tag: &str) -> IoCommand {
        IoCommand::new("break", [event, tag])
    }

    /// `remove_break`: no longer suspends.
    pub fn remove_break(tag: &str) -> IoCommand {
        IoCommand::new("remove_break", [tag])
    }

    /// `wait_break`: waits until a request is suspended.
    pub fn wait_break(tag: &str) -> IoCommand {
        IoCommand::new("wait_break", [tag])
    }

    /// `resume`: resumes a suspended request.
    pub fn resume(tag: &str) -> IoCommand {
        IoCommand::new("resume", [tag])
    }

    /// `sleep`: runs timers and requests for this many milliseconds.
    pub fn sleep(millis: u64) -> IoCommand {
        IoCommand::new("sleep", [millis])
    }

    /// `abort`: dies by SIGABRT.
    pub fn abort() -> IoCommand {
        IoCommand::plain("abort")
    }

    /// `sigraise`: sends itself a signal.
    pub fn sigraise(signal: i32) -> IoCommand {
        IoCommand::new("sigraise", [signal])
    }

    /// `zone_report` (8.0, as all zone commands): the state of this many zones.
    pub fn zone_report(offset: u64, zones: u64) -> IoCommand {
        IoCommand::new("zone_report", [offset, zones])
    }

    /// `zone_open`.
    pub fn zone_open(offset: u64, length: u64) -> IoCommand {
        IoCommand::new("zone_open", [offset, length])
    }

    /// `zone_close`.
    pub fn zone_close(offset: u64, length: u64) -> IoCommand {
        IoCommand::new("zone_close", [offset, length])
    }

    /// `zone_finish`.
    pub fn zone_finish(offset: u64, length: u64) -> IoCommand {
        IoCommand::new("zone_finish", [offset, length])
    }

    /// `zone_reset`.
    pub fn zone_reset(offset: u64, length: u64) -> IoCommand {
        IoCommand::new("zone_reset", [offset, length])
    }

    /// `zone_append` (8.1): writes at the zone's write pointer, and prints its new position (`-p`,
    /// without which qemu-io rejects a single length as too few arguments).
    pub fn zone_append(offset: u64, lengths: impl IntoIterator<Item = u64>) -> IoCommand {
        IoCommand::vector("zone_append", offset, lengths).flag("-p")
    }

    /// `close`: closes the image; the session continues.
    pub fn close() -> IoCommand {
        IoCommand::plain("close")
    }

    /// `quit`: exits qemu-io. The rest of a command list is skipped.
    pub fn quit() -> IoCommand {
        IoCommand::plain("quit")
    }

    /// Adds a flag.
    pub fn flag(mut self, flag: &str) -> IoCommand {
        self.flags.push(flag.to_owned());
        self
    }

    /// The byte to write, or that all bytes read must have (`-P`).
    pub fn pattern(self, byte: u8) -> IoCommand {
        self.flag("-P").flag(&format!("{byte:#04x}"))
    }

    /// Verifies only this part of what is read (`-s`, `-l`), counted from the start of the request.
    pub fn pattern_range(self, skip: u64, length: u64) -> IoCommand {
        self.flag("-s").flag(&skip.to_string()).flag("-l").flag(&length.to_string())
    }

    /// Prints no statistics (`-q`), and so no success either.
    pub fn quiet(self) -> IoCommand {
        self.flag("-q")
    }

    /// Prints the data read (`-v`).
    pub fn verbose(self) -> IoCommand {
        self.flag("-v")
    }

    /// Forces unit access (FUA): the data is stable on completion (`-f`).
    pub fn fua(self) -> IoCommand {
        self.flag("-f")
    }

    /// Allows zeroes to be unmapped (`-u`).
    pub fn unmap(self) -> IoCommand {
        self.flag("-u")
    }

    /// Fails instead of writing zeroes slowly (`-n`).
    pub fn no_fallback(self) -> IoCommand {
        self.flag("-n")
    }

    /// Writes compressed data (`-c`).
    pub fn compressed(self) -> IoCommand {
        self.flag("-c")
    }

    /// Accesses the VM state, not the disk (`-b`).
    pub fn vmstate(self) -> IoCommand {
        self.flag("-b")
    }

    /// How this command reports success.
    pub(super) fn success(&self) -> Success {
        let line = self.to_string();
        let mut words = line.split_ascii_whitespace();
        let verb = words.next().unwrap_or_default();
        let mut flags = words.filter(|word| word.starts_with('-'));
        // Short flags can be combined, as in `-qz`.
        let has = |flag: char| flags.clone().any(|word| word.contains(flag));
        let is_quiet = has('q');
        let is_condensed = flags.any(|word| word.contains('C'));
        let line = match verb {
            "read" | "r" | "readv" | "aio_read" => "read ",
            "write" | "w" | "writev" | "aio_write" => "wrote ",
            "discard" | "d" => "discard ",
            "flush" | "f" | "truncate" | "t" | "aio_flush" | "reopen" | "break"
            | "remove_break" | "resume" | "wait_break" | "sleep" | "close" | "c" | "zone_open"
            | "zone_close" | "zone_finish" | "zone_reset" => return Success::Silence,
            _ => return Success::Any,
        };
        match verb.starts_with("aio_") {
            _ if is_quiet => Success::Silence,
            true => Success::LaterLine(line),
            false if is_condensed => Success::Any,
            false => Success::Line(line),
        }
    }

    /// Whether it ends qemu-io.
    pub(super) fn is_quit(&self) -> bool {
        matches!(self.to_string().trim(), "quit" | "q")
    }

    /// The line for a session.
    pub fn line(&self) -> Result<String, LineError> {
        let line = self.to_string();
        if line.contains(['\n', '\0']) {
            return Err(LineError::ControlCharacter(line.chars().take(80).collect()));
        }
        if line.len() > MAX_LINE {
            let start = line.chars().take(40).collect();
            return Err(LineError::TooLong {
                length: line.len(),
                start,
            });
        }
        Ok(line)
    }
}

/// How a command reports success. qemu-io prints a refusal like any other line, so only an explicit
/// report of success can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Success {
    /// By a line with this prefix.
    Line(&'static str),
    /// By such a line, but perhaps only after later commands.
    LaterLine(&'static str),
    /// By printing nothing of its own.
    Silence,
    /// In no known way: every command that reports no failure counts as successful.
    Any,
}

impl fmt::Display for IoCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.verb)?;
        self.flags.iter().chain(&self.operands).try_for_each(|word| write!(f, " {word}"))
    }
}

/// A command, unchanged.
impl From<&str> for IoCommand {
    fn from(text: &str) -> IoCommand {
        IoCommand::plain(text)
    }
}

/// A command, unchanged.
impl From<String> for IoCommand {
    fn from(text: String) -> IoCommand {
        IoCommand::plain(&text)
    }
}

impl From<&IoCommand> for IoCommand {
    fn from(command: &IoCommand) -> IoCommand {
        command.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_are_written_as_qemu_io_reads_them() {
        for (command, expected) in [
            (
                IoCommand::write(0, 65536).pattern(0x11),
                "write -P 0x11 0 65536",
            ),
            (
                IoCommand::read(512, 1).pattern(7).pattern_range(8, 9),
                "read -P 0x07 -s 8 -l 9 512 1",
            ),
            (IoCommand::writev(0, [1, 2]).quiet(), "writev -q 0 1 2"),
            (
                IoCommand::write_zeroes(0, 1).unmap().no_fallback(),
                "write -z -u -n 0 1",
            ),
            (IoCommand::aio_write(0, 1).fua(), "aio_write -f 0 1"),
            (IoCommand::reopen("-r"), "reopen -r"),
            (IoCommand::reopen(""), "reopen"),
            (IoCommand::break_at("pwritev", "A"), "break pwritev A"),
            (IoCommand::zone_append(0, [4096]), "zone_append -p 0 4096"),
            ("read 0 64k".into(), "read 0 64k"),
        ] {
            assert_eq!(command.to_string(), expected);
        }
    }

    #[test]
    fn a_success_is_known_by_the_verb_in_whatever_way_it_is_written() {
        for (command, expected) in [
            (IoCommand::read(0, 1), Success::Line("read ")),
            ("r 0 64k".into(), Success::Line("read ")),
            ("write -b -z 0 64k".into(), Success::Line("wrote ")),
            ("write -P 0x0 -q 0 64k".into(), Success::Silence),
            (IoCommand::writev(0, [1]).quiet(), Success::Silence),
            ("writev -zq 0 1".into(), Success::Silence),
            ("read -C 0 1".into(), Success::Any),
            (IoCommand::aio_write(0, 1), Success::LaterLine("wrote ")),
            ("d 0 1".into(), Success::Line("discard ")),
            (IoCommand::flush(), Success::Silence),
            (IoCommand::map(), Success::Any),
            ("".into(), Success::Any),
        ] {
            assert_eq!(command.success(), expected, "{command}");
        }
    }

    proptest! {
        #[test]
        fn a_line_is_refused_exactly_when_qemu_io_would_not_take_it_for_one(
            text in prop_oneof!["[ -~é\n\0]{0,30}", "[a-zé]{1000,1100}"],
        ) {
            let fits = text.len() <= MAX_LINE && !text.contains(['\n', '\0']);
            prop_assert_eq!(IoCommand::from(text.as_str()).line().is_ok(), fits);
        }
    }
}
