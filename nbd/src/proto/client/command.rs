//! Requests as submitted by callers, and the rules of strict mode.

use super::config::{Config, StrictMode};
use super::export::ExportInfo;
use crate::proto::{CommandFlags, CommandType, Mode, Request, StatusFilter, TransmissionFlags};

/// A request to be submitted.
#[derive(Clone, Debug)]
pub struct Command<B> {
    pub(super) request: Request,
    /// Length of the affected range, which differs from the length field when that counts a
    /// payload.
    pub(super) effect_len: u64,
    pub(super) payload: Option<B>,
    /// Contexts that a block status must answer; `None` means all selected ones.
    pub(super) contexts: Option<Vec<u32>>,
    /// A buffer for read data, of this request's reply or another's.
    pub(super) buffer: Option<Vec<u8>>,
    /// Sent as is, regardless of strict mode.
    pub(super) raw: bool,
}

impl<B: AsRef<[u8]>> Command<B> {
    fn new(command: CommandType, offset: u64, len: u64) -> Command<B> {
        let request = Request {
            flags: CommandFlags::empty(),
            command,
            cookie: 0,
            offset,
            len,
        };
        Command {
            request,
            effect_len: len,
            payload: None,
            contexts: None,
            buffer: None,
            raw: false,
        }
    }

    /// Reads.
    pub fn read(offset: u64, len: u64) -> Command<B> {
        Command::new(CommandType::READ, offset, len)
    }

    /// Writes.
    pub fn write(offset: u64, data: B) -> Command<B> {
        let len = data.as_ref().len() as u64;
        Command {
            payload: Some(data),
            ..Command::new(CommandType::WRITE, offset, len)
        }
    }

    /// Writes zeroes.
    pub fn write_zeroes(offset: u64, len: u64) -> Command<B> {
        Command::new(CommandType::WRITE_ZEROES, offset, len)
    }

    /// Discards.
    pub fn trim(offset: u64, len: u64) -> Command<B> {
        Command::new(CommandType::TRIM, offset, len)
    }

    /// Prefetches.
    pub fn cache(offset: u64, len: u64) -> Command<B> {
        Command::new(CommandType::CACHE, offset, len)
    }

    /// Waits until completed writes are on stable storage.
    pub fn flush() -> Command<B> {
        Command::new(CommandType::FLUSH, 0, 0)
    }

    /// Requests the status of all selected contexts.
    pub fn block_status(offset: u64, len: u64) -> Command<B> {
        Command::new(CommandType::BLOCK_STATUS, offset, len)
    }

    /// Requests the status of some of them (extended headers with
    /// [`TransmissionFlags::BLOCK_STATUS_PAYLOAD`]).
    pub fn block_status_of(contexts: Vec<u32>, offset: u64, len: u64) -> Command<B>
    where
        B: From<Vec<u8>>,
    {
        let filter = StatusFilter {
            effect_len: len,
            contexts: contexts.clone(),
        };
        let mut command = Command::new(CommandType::BLOCK_STATUS, offset, len);
        command.request.flags = CommandFlags::PAYLOAD_LEN;
        command.payload = Some(filter.encode().into());
        command.contexts = Some(contexts);
        command
    }

    /// Any request with any payload, sent as is; its reply is checked as usual.
    pub fn raw(request: Request, payload: B) -> Command<B> {
        Command {
            effect_len: request.len,
            request,
            payload: Some(payload),
            contexts: None,
            buffer: None,
            raw: true,
        }
    }

    /// Adds these flags.
    pub fn flags(mut self, flags: CommandFlags) -> Command<B> {
        self.request.flags |= flags;
        self
    }

    /// Passes a buffer for reuse; its content is lost, even on errors. The reply returns the buffer
    /// that was passed last, which is still in the processor's cache: however many reads are in
    /// flight, few buffers are in use.
    pub fn into_buffer(mut self, buffer: Vec<u8>) -> Command<B> {
        self.buffer = Some(buffer);
        self
    }

    /// The command, its offset and its length.
    pub fn asks(&self) -> (CommandType, u64, u64) {
        (self.request.command, self.request.offset, self.effect_len)
    }

    /// Bytes of payload in either direction.
    fn payload_len(&self) -> u64 {
        match self.request.command {
            CommandType::READ => self.effect_len,
            _ => self.payload.as_ref().map_or(0, |p| p.as_ref().len() as u64),
        }
    }

    /// Prepares the request for the wire in this mode.
    pub(super) fn finish(&mut self, mode: Mode) {
        if self.raw {
            return;
        }
        if self.request.command == CommandType::WRITE && mode == Mode::Extended {
            self.request.flags |= CommandFlags::PAYLOAD_LEN;
        }
        if self.request.command == CommandType::BLOCK_STATUS
            && let Some(payload) = &self.payload
        {
            self.request.len = payload.as_ref().len() as u64;
        }
    }

    /// The rule of strict mode that this request breaks on this export.
    pub(super) fn objection(&self, export: &ExportInfo, config: &Config) -> Option<String> {
        if self.raw {
            return None;
        }
        let (request, len, payload) = (&self.request, self.effect_len, self.payload_len());
        let sizes = export.sizes();
        let checked = |check| config.strict.contains(check);
        // These two concern our own memory and the header's capacity.
        if payload > config.max_payload {
            let ours = config.max_payload;
            return Some(format!("payload above our own limit of {ours}"));
        }
        if export.mode != Mode::Extended && len > u64::from(u32::MAX) {
            return Some("length above 32 bits needs extended headers".into());
        }
        if request.command == CommandType::BLOCK_STATUS && export.contexts.is_empty() {
            return Some("no context was selected".into());
        }
        if checked(StrictMode::COMMANDS) {
            let (needs, writes) = needed(request.command);
            if !export.flags.contains(needs) {
                return Some(format!("the export does not advertise {needs}"));
            }
            if writes && export.is_read_only() {
                return Some("the export is read-only".into());
            }
        }
        if checked(StrictMode::FLAGS) {
            let missing = request.flags - allowed_flags(request.command, export.flags, export.mode);
            if !missing.is_empty() {
                return Some(format!("flags {missing} are not available"));
            }
        }
        if request.command == CommandType::FLUSH {
            return None;
        }
        if checked(StrictMode::ZERO_SIZE) && len == 0 {
            return Some("zero bytes".into());
        }
        let end = request.offset.checked_add(len);
        if checked(StrictMode::BOUNDS) && end.is_none_or(|end| end > export.size) {
            let size = export.size;
            return Some(format!("beyond the end of the export ({size} bytes)"));
        }
        let minimum = u64::from(sizes.minimum.max(1));
        let aligned = request.offset.is_multiple_of(minimum) && len.is_multiple_of(minimum);
        if checked(StrictMode::ALIGN) && !aligned {
            return Some(format!(
                "not a multiple of the minimum block size {minimum}"
            ));
        }
        if checked(StrictMode::PAYLOAD) && payload > u64::from(sizes.maximum) {
            let most = sizes.maximum;
            return Some(format!("payload above the server's limit of {most}"));
        }
        None
    }
}

/// The flag that advertises a command, and whether it changes the export.
fn needed(command: CommandType) -> (TransmissionFlags, bool) {
    use TransmissionFlags as F;
    match command {
        CommandType::WRITE => (F::empty(), true),
        CommandType::FLUSH => (F::SEND_FLUSH, false),
        CommandType::TRIM => (F::SEND_TRIM, true),
        CommandType::CACHE => (F::SEND_CACHE, false),
        CommandType::WRITE_ZEROES => (F::SEND_WRITE_ZEROES, true),
        _ => (F::empty(), false),
    }
}

/// Flags that make sense for a command on this export (proto.md, "Command flags").
fn allowed_flags(command: CommandType, export: TransmissionFlags, mode: Mode) -> CommandFlags {
    use CommandFlags as C;
    use CommandType as T;
    let has = |flag| export.contains(flag);
    let own = match command {
        T::READ => C::DF.only_if(has(TransmissionFlags::SEND_DF)),
        T::WRITE => C::PAYLOAD_LEN.only_if(mode == Mode::Extended),
        T::WRITE_ZEROES => {
            C::NO_HOLE | C::FAST_ZERO.only_if(has(TransmissionFlags::SEND_FAST_ZERO))
        }
        T::BLOCK_STATUS => {
            let payload = mode == Mode::Extended && has(TransmissionFlags::BLOCK_STATUS_PAYLOAD);
            C::REQ_ONE | C::PAYLOAD_LEN.only_if(payload)
        }
        _ => C::empty(),
    };
    let writes = [T::WRITE, T::TRIM, T::WRITE_ZEROES].contains(&command);
    own | C::FUA.only_if(writes && has(TransmissionFlags::SEND_FUA))
}
