//! Carrying out a request on a backend.

use bytes::Bytes;

use super::conversation::Job;
use crate::proto::chunk::Status;
use crate::proto::server::Answer;
use crate::proto::{CommandFlags, CommandType};

/// Carries out a request that the protocol allows.
pub(super) async fn execute(job: Job) -> Answer<Bytes> {
    let Job {
        mut incoming,
        export,
        contexts,
    } = job;
    let backend = &*export.backend;
    let (offset, len) = (incoming.request.offset, incoming.effect_len);
    let fua = incoming.has(CommandFlags::FUA);
    match incoming.command() {
        CommandType::READ => match backend.read(offset, len).await {
            Ok(pieces) => Answer::Data(pieces),
            Err(failure) => failure.into(),
        },
        CommandType::WRITE => {
            let data = Bytes::from(std::mem::take(&mut incoming.payload));
            backend.write(offset, data, fua).await.into()
        }
        CommandType::WRITE_ZEROES => backend.zero(offset, len, incoming.request.flags).await.into(),
        CommandType::TRIM => match backend.trim(offset, len).await {
            Ok(()) if fua => backend.flush().await.into(),
            result => result.into(),
        },
        CommandType::CACHE => backend.cache(offset, len).await.into(),
        CommandType::BLOCK_STATUS => {
            let one = incoming.has(CommandFlags::REQ_ONE);
            let mut statuses = Vec::new();
            for id in incoming.contexts {
                let name = contexts.get(id as usize).map_or("", String::as_str);
                match backend.status(name, offset, len, one).await {
                    Ok(extents) => statuses.push(Status {
                        context: id,
                        extents,
                    }),
                    Err(failure) => return failure.into(),
                }
            }
            Answer::Status(statuses)
        }
        _ => backend.flush().await.into(),
    }
}
