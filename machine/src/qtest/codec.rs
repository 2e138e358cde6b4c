//! Requests to text, lines to replies; no I/O.

use std::fmt;

/// Width of one access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Long,
    /// Eight bytes; memory only.
    Quad,
}

impl Width {
    fn suffix(self) -> char {
        match self {
            Width::Byte => 'b',
            Width::Word => 'w',
            Width::Long => 'l',
            Width::Quad => 'q',
        }
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Advances the virtual clock, to the next deadline or by this many nanoseconds.
    ClockStep(Option<u64>),
    /// Moves the virtual clock to this time in nanoseconds.
    ClockSet(u64),
    /// Reads an I/O port.
    In(Width, u64),
    /// Writes an I/O port.
    Out(Width, u64, u64),
    /// Reads one value from guest memory.
    Read(Width, u64),
    /// Writes one value to guest memory.
    Write(Width, u64, u64),
    /// Reads a range of guest memory: address, length.
    ReadBytes(u64, usize),
    /// Writes a range of guest memory.
    WriteBytes(u64, Vec<u8>),
    /// Fills a range of guest memory: address, length, value.
    Memset(u64, usize, u8),
    /// Reports changes of the inputs of the device at this QOM path.
    IrqInterceptIn(String),
    /// Reports changes of the outputs of the device at this QOM path.
    IrqInterceptOut(String),
    /// Sets an interrupt pin: QOM path, pin list, number, level.
    SetIrqIn(String, String, u32, i32),
    /// Queries the target's byte order.
    Endianness,
    /// Any other line; it must not contain a newline.
    Raw(String),
}

impl fmt::Display for Request {
    /// The line, without its newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::ClockStep(None) => f.write_str("clock_step"),
            Request::ClockStep(Some(ns)) => write!(f, "clock_step {ns}"),
            Request::ClockSet(ns) => write!(f, "clock_set {ns}"),
            Request::In(w, port) => write!(f, "in{} {port:#x}", w.suffix()),
            Request::Out(w, port, value) => write!(f, "out{} {port:#x} {value:#x}", w.suffix()),
            Request::Read(w, addr) => write!(f, "read{} {addr:#x}", w.suffix()),
            Request::Write(w, addr, value) => write!(f, "write{} {addr:#x} {value:#x}", w.suffix()),
            Request::ReadBytes(addr, len) => write!(f, "read {addr:#x} {len:#x}"),
            Request::WriteBytes(addr, data) => {
                write!(f, "write {addr:#x} {:#x} 0x", data.len())?;
                data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Request::Memset(addr, len, value) => write!(f, "memset {addr:#x} {len:#x} {value:#x}"),
            Request::IrqInterceptIn(path) => write!(f, "irq_intercept_in {path}"),
            Request::IrqInterceptOut(path) => write!(f, "irq_intercept_out {path}"),
            Request::SetIrqIn(path, list, number, level) => {
                write!(f, "set_irq_in {path} {list} {number} {level}")
            }
            Request::Endianness => f.write_str("endianness"),
            Request::Raw(line) => f.write_str(line),
        }
    }
}

impl Request {
    /// Whether the request belongs to the virtual clock, which only `-accel qtest` has.
    #[must_use]
    pub fn moves_clock(&self) -> bool {
        match self {
            Request::ClockStep(_) | Request::ClockSet(_) => true,
            Request::Raw(line) => line.starts_with("clock_"),
            _ => false,
        }
    }
}

/// A change of an interrupt line under interception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Irq {
    /// Number of the pin.
    pub number: u32,
    /// Whether it was raised.
    pub raised: bool,
}

/// One line from QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The request was done; its values follow, often none.
    Ok(Vec<String>),
    /// The request failed (`FAIL …`), or was malformed (`ERR …`), with QEMU's error message.
    Fail(String),
    /// An interrupt line changed; not a reply.
    Irq(Irq),
}

/// A line that is not part of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to understand the qtest line {0:?}")]
pub struct LineError(pub String);

impl Line {
    /// Parses one line, with or without its newline.
    ///
    /// # Errors
    /// If the line does not begin with a keyword of the protocol.
    pub fn parse(line: &str) -> Result<Line, LineError> {
        let line = line.trim_end_matches(['\r', '\n']);
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("OK") => Ok(Line::Ok(words.map(str::to_owned).collect())),
            Some(first @ ("FAIL" | "ERR")) => Ok(Line::Fail(line[first.len()..].trim().to_owned())),
            Some("IRQ") => {
                let raised = match words.next() {
                    Some("raise") => Some(true),
                    Some("lower") => Some(false),
                    _ => None,
                };
                let number = words.next().and_then(|n| n.parse().ok());
                match (raised, number) {
                    (Some(raised), Some(number)) => Ok(Line::Irq(Irq { number, raised })),
                    _ => Err(LineError(line.to_owned())),
                }
            }
            _ => Err(LineError(line.to_owned())),
        }
    }
}

/// Reads a number as QEMU prints it: decimal, or hexadecimal with `0x`.
pub(crate) fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

/// Reads `0x` followed by two hexadecimal digits for each byte.
pub(crate) fn bytes(word: &str) -> Option<Vec<u8>> {
    let digits = word.strip_prefix("0x")?.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |d: u8| char::from(d).to_digit(16).and_then(|v| u8::try_from(v).ok());
    digits
        .chunks_exact(2)
        .map(|pair| Some((nibble(pair[0])? << 4) | nibble(pair[1])?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_read_as_the_protocol_describes_them() {
        let table = [
            (Request::ClockStep(None), "clock_step"),
            (
                Request::ClockStep(Some(1_000_000_000)),
                "clock_step 1000000000",
            ),
            (Request::ClockSet(5), "clock_set 5"),
            (Request::In(Width::Byte, 0x71), "inb 0x71"),
            (
                Request::Out(Width::Long, 0xcf8, 0x8000_0000),
                "outl 0xcf8 0x80000000",
            ),
            (Request::Read(Width::Quad, 16), "readq 0x10"),
            (Request::Write(Width::Word, 0, 255), "writew 0x0 0xff"),
            (Request::ReadBytes(0, 4), "read 0x0 0x4"),
            (
                Request::WriteBytes(1, vec![0, 0xab]),
                "write 0x1 0x2 0x00ab",
            ),
            (Request::Memset(1, 2, 3), "memset 0x1 0x2 0x3"),
            (
                Request::IrqInterceptIn("ioapic".into()),
                "irq_intercept_in ioapic",
            ),
            (
                Request::SetIrqIn("/m".into(), "gpio".into(), 1, -1),
                "set_irq_in /m gpio 1 -1",
            ),
        ];
        for (request, line) in table {
            assert_eq!(request.to_string(), line);
        }
    }

    #[test]
    fn lines_are_replies_failures_or_interrupts() {
        assert_eq!(Line::parse("OK\n"), Ok(Line::Ok(vec![])));
        assert_eq!(
            Line::parse("OK 0x1 2\r\n"),
            Ok(Line::Ok(vec!["0x1".into(), "2".into()]))
        );
        assert_eq!(
            Line::parse("FAIL Unknown command 'x'"),
            Ok(Line::Fail("Unknown command 'x'".into()))
        );
        assert_eq!(Line::parse("ERR bad"), Ok(Line::Fail("bad".into())));
        assert_eq!(
            Line::parse("IRQ raise 4"),
            Ok(Line::Irq(Irq {
                number: 4,
                raised: true
            }))
        );
        assert_eq!(
            Line::parse("IRQ lower 4"),
            Ok(Line::Irq(Irq {
                number: 4,
                raised: false
            }))
        );
        for bad in ["", "IRQ", "IRQ up 1", "IRQ raise x", "[R +0.1] OK"] {
            assert_eq!(Line::parse(bad), Err(LineError(bad.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn bytes_survive_the_hexadecimal_form(data in prop::collection::vec(any::<u8>(), 0..64)) {
            let line = Request::WriteBytes(0, data.clone()).to_string();
            let word = line.rsplit(' ').next().unwrap();
            prop_assert_eq!(bytes(word), Some(data));
        }

        #[test]
        fn no_line_makes_the_parser_panic(line in ".{0,40}") {
            let _ = Line::parse(&line);
            let _ = (number(&line), bytes(&line));
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        assert_eq!(number("0x10"), Some(16));
        assert_eq!(number("10"), Some(10));
        assert_eq!(number("0xzz"), None);
        assert_eq!(bytes("0x123"), None);
        assert_eq!(bytes("0x+1"), None);
        assert_eq!(bytes("12"), None);
    }
}
