//! What a request does, and what the protocol or a rule has against it.

use bytes::Bytes;

use super::backend::BackendError;
use super::negotiate::Agreed;
use super::plan::{Action, Firing};
use super::reply::Answer;
use super::state::Shared;
use crate::proto::chunk::Status;
use crate::proto::{
    CommandFlags, CommandType, Errno, Mode, Request, StatusFilter, TransmissionFlags, limits,
};

/// Carries out the requests of one connection.
pub(super) struct Executor<'a> {
    pub(super) agreed: &'a Agreed,
    pub(super) shared: &'a Shared,
    /// Number of the connection.
    pub(super) number: u64,
}

impl Executor<'_> {
    /// Carries a request out, unless a rule or the protocol has something against it.
    pub(super) async fn execute(&self, request: &Request, data: Bytes, rules: &[Firing]) -> Answer {
        let mut lost = false;
        let mut torn = None;
        for firing in rules {
            match &firing.action {
                Action::Error {
                    errno,
                    text,
                    offset,
                } => {
                    let error = BackendError::new(*errno, text.clone());
                    return Answer::Failed { error, at: *offset };
                }
                Action::LoseWrite if request.command == CommandType::WRITE => lost = true,
                Action::TearWrite(n) if request.command == CommandType::WRITE => {
                    torn = Some(data.len().min(*n as usize));
                }
                _ => self.shared.misfit(self.number, firing),
            }
        }
        let mut effect = request.len;
        let mut filter = None;
        if request.command == CommandType::BLOCK_STATUS && !data.is_empty() {
            match self.filter(&data) {
                Ok(wanted) => (effect, filter) = (wanted.effect_len, Some(wanted.contexts)),
                Err(text) => return Answer::fail(Errno::EINVAL, &text),
            }
        }
        if let Some((errno, text)) = self.objection(request, effect, filter.is_some()) {
            return Answer::fail(errno, text);
        }
        let data = if lost {
            Bytes::new()
        } else {
            data.slice(..torn.unwrap_or(data.len()))
        };
        self.carry_out(request, effect, data, filter).await
    }

    fn filter(&self, payload: &[u8]) -> Result<StatusFilter, String> {
        let filter = StatusFilter::decode(payload).map_err(|error| error.to_string())?;
        let known = self.agreed.contexts.len() as u32;
        let ids = &filter.contexts;
        if ids.is_empty() {
            return Err("no context id".into());
        }
        let twice = ids.iter().enumerate().any(|(n, id)| ids[..n].contains(id));
        if twice || ids.iter().any(|id| *id >= known) {
            return Err("unknown or repeated context id".into());
        }
        Ok(filter)
    }

    /// Why a request cannot be carried out (proto.md, "Request types" and "Error values").
    fn objection(
        &self,
        request: &Request,
        len: u64,
        filtered: bool,
    ) -> Option<(Errno, &'static str)> {
        use CommandType as C;
        let size = self.agreed.export.backend.size();
        if !self
            .allowed_flags(request.command, filtered)
            .contains(request.flags)
        {
            return Some((Errno::EINVAL, "flags do not fit the command"));
        }
        let writes = [C::WRITE, C::TRIM, C::WRITE_ZEROES].contains(&request.command);
        let ranged = writes || [C::READ, C::CACHE, C::BLOCK_STATUS].contains(&request.command);
        if !ranged && request.command != C::FLUSH {
            return Some((Errno::EINVAL, "unknown command"));
        }
        if writes && self.agreed.flags.contains(TransmissionFlags::READ_ONLY) {
            return Some((Errno::EPERM, "the export is read-only"));
        }
        let end = request.offset.checked_add(len);
        if ranged && end.is_none_or(|end| end > size) {
            let lacks_space = [C::WRITE, C::WRITE_ZEROES].contains(&request.command);
            let errno = if lacks_space {
                Errno::ENOSPC
            } else {
                Errno::EINVAL
            };
            return Some((errno, "beyond the end of the export"));
        }
        let minimum = u64::from(self.agreed.export.sizes().map_or(1, |s| s.minimum.max(1)));
        if ranged && !(request.offset.is_multiple_of(minimum) && len.is_multiple_of(minimum)) {
            return Some((Errno::EINVAL, "not a multiple of the minimum block size"));
        }
        if request.command == C::READ && len > self.shared.max_payload {
            let errno = match request.flags.contains(CommandFlags::DF) {
                true => Errno::EOVERFLOW,
                false => Errno::EINVAL,
            };
            return Some((errno, "too much at once"));
        }
        if request.command == C::BLOCK_STATUS && self.agreed.contexts.is_empty() {
            return Some((Errno::EINVAL, "no context was selected"));
        }
        if request.command == C::BLOCK_STATUS && len == 0 {
            return Some((Errno::EINVAL, "no bytes"));
        }
        None
    }

    /// What a command may be flagged with (proto.md, "Command flags").
    fn allowed_flags(&self, command: CommandType, filtered: bool) -> CommandFlags {
        use CommandFlags as F;
        let if_advertised = |flag, advertised| match self.agreed.flags.contains(advertised) {
            true => flag,
            false => F::empty(),
        };
        match command {
            CommandType::READ => F::FUA | if_advertised(F::DF, TransmissionFlags::SEND_DF),
            CommandType::WRITE => F::FUA | F::PAYLOAD_LEN,
            CommandType::WRITE_ZEROES => {
                let fast = if_advertised(F::FAST_ZERO, TransmissionFlags::SEND_FAST_ZERO);
                F::FUA | F::NO_HOLE | fast
            }
            CommandType::BLOCK_STATUS if filtered => F::REQ_ONE | F::PAYLOAD_LEN,
            CommandType::BLOCK_STATUS => F::REQ_ONE,
            _ => F::FUA,
        }
    }

    async fn carry_out(
        &self,
        request: &Request,
        len: u64,
        data: Bytes,
        filter: Option<Vec<u32>>,
    ) -> Answer {
        let backend = self.agreed.export.backend.clone();
        let offset = request.offset;
        match request.command {
            CommandType::READ => match backend.read(offset, len).await {
                Ok(pieces) => Answer::Data(pieces),
                Err(error) => Answer::Failed { error, at: None },
            },
            CommandType::WRITE => {
                let fua = request.flags.contains(CommandFlags::FUA);
                // A write that a rule made vanish is not even noted: the shadow must find it.
                if data.is_empty() && len > 0 {
                    return Answer::Done;
                }
                let result = backend.write(offset, data.clone(), fua).await;
                if let (Some(shadow), Ok(())) = (&self.shared.shadow, &result) {
                    shadow.applied(self.number, offset, &data);
                }
                result.into()
            }
            CommandType::WRITE_ZEROES => backend.zero(offset, len, request.flags).await.into(),
            CommandType::TRIM => {
                let fua = request.flags.contains(CommandFlags::FUA);
                match backend.trim(offset, len).await {
                    Ok(()) if fua => backend.flush().await.into(),
                    result => result.into(),
                }
            }
            CommandType::CACHE => backend.cache(offset, len).await.into(),
            CommandType::BLOCK_STATUS => self.status(request, len, filter).await,
            _ => backend.flush().await.into(),
        }
    }

    async fn status(&self, request: &Request, len: u64, filter: Option<Vec<u32>>) -> Answer {
        let ids = 0..self.agreed.contexts.len() as u32;
        let ids: Vec<u32> = filter.unwrap_or_else(|| ids.collect());
        let narrow = self.agreed.mode < Mode::Extended;
        let backend = self.agreed.export.backend.clone();
        let mut statuses = Vec::new();
        for id in ids {
            let name = &self.agreed.contexts[id as usize];
            match backend.status(name, request.offset, len).await {
                Ok(mut extents) => {
                    extents.truncate(limits::MAX_EXTENTS);
                    if request.flags.contains(CommandFlags::REQ_ONE) {
                        extents.truncate(1);
                    }
                    // Whatever the backend knows beyond the request is kept out of the way of
                    // clients that take REQ_ONE at its word.
                    let most = if narrow {
                        limits::MAX_COMPACT_LEN
                    } else {
                        u64::MAX
                    };
                    if let Some(last) = extents.last_mut() {
                        last.len = last.len.min(most);
                    }
                    statuses.push(Status {
                        context: id,
                        extents,
                    });
                }
                Err(error) => return Answer::Failed { error, at: None },
            }
        }
        Answer::Status(statuses)
    }
}
