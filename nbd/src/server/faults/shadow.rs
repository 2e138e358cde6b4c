//! The fate of each write: lost, torn, doubled.
//!
//! The test records what it is going to write ([`WriteShadow::intend`]) and what the client
//! reported as done ([`WriteShadow::acknowledge`]); the server records what it carried out. The
//! test must write each intended range at most once, so that old and new content can be
//! distinguished.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Faults;
use crate::proto::CommandType;
use crate::proto::server::Answer;
use crate::server::backend::{Backend, BackendError, Piece};
use crate::server::conversation::Job;
use crate::server::execute::execute;

/// A record of writes, shared between a test and a server.
#[derive(Clone, Debug, Default)]
pub struct WriteShadow(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
struct Notes {
    intents: Vec<Intent>,
    applied: Vec<Applied>,
}

#[derive(Debug)]
struct Intent {
    offset: u64,
    data: Bytes,
    acknowledged: bool,
}

#[derive(Debug)]
struct Applied {
    connection: u64,
    offset: u64,
    data: Bytes,
}

/// A range of bytes: offset and length.
pub type Span = (u64, u64);

/// What the shadow found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShadowReport {
    /// Acknowledged, but the old content is still there.
    pub lost: Vec<Span>,
    /// Partly old, partly new, whether acknowledged or not.
    pub torn: Vec<Span>,
    /// Neither old nor new.
    pub wrong: Vec<Span>,
    /// Carried out more than once, which a client that reconnects may cause.
    pub doubled: Vec<Span>,
    /// Carried out twice with different content.
    pub conflicting: Vec<Span>,
    /// Carried out, but never intended.
    pub foreign: Vec<Span>,
}

impl ShadowReport {
    /// Whether no data was damaged. Carrying out a write twice does no damage.
    pub fn is_intact(&self) -> bool {
        let harmless = ShadowReport {
            doubled: self.doubled.clone(),
            ..Default::default()
        };
        *self == harmless
    }
}

impl WriteShadow {
    /// An empty record.
    pub fn new() -> WriteShadow {
        WriteShadow::default()
    }

    /// The test will write this, over zeroes.
    pub fn intend(&self, offset: u64, data: impl Into<Bytes>) {
        self.lock().intents.push(Intent {
            offset,
            data: data.into(),
            acknowledged: false,
        });
    }

    /// The client reported the write at this offset as done.
    pub fn acknowledge(&self, offset: u64) {
        for intent in self.lock().intents.iter_mut().filter(|i| i.offset == offset) {
            intent.acknowledged = true;
        }
    }

    /// The server has carried out a write.
    pub(in crate::server) fn applied(&self, connection: u64, offset: u64, data: &Bytes) {
        let data = data.clone();
        self.lock().applied.push(Applied {
            connection,
            offset,
            data,
        });
    }

    /// Number of connections that carried out writes.
    pub fn connections(&self) -> usize {
        let mut seen: Vec<u64> = self.lock().applied.iter().map(|a| a.connection).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    }

    /// Compares the backend with what was intended.
    pub async fn verify(&self, backend: &impl Backend) -> Result<ShadowReport, BackendError> {
        let mut report = self.compare_notes();
        let intents: Vec<(u64, Bytes, bool)> = {
            let notes = self.lock();
            notes.intents.iter().map(|i| (i.offset, i.data.clone(), i.acknowledged)).collect()
        };
        for (offset, wanted, acknowledged) in intents {
            let found = contents(backend, offset, wanted.len() as u64).await?;
            let span = (offset, wanted.len() as u64);
            if found == wanted {
                continue;
            }
            if found.iter().all(|b| *b == 0) {
                if acknowledged {
                    report.lost.push(span);
                }
            } else if found.iter().zip(&wanted).all(|(f, w)| f == w || *f == 0) {
                report.torn.push(span);
            } else {
                report.wrong.push(span);
            }
        }
        Ok(report)
    }

    /// What follows from the records alone.
    fn compare_notes(&self) -> ShadowReport {
        let notes = self.lock();
        let mut report = ShadowReport::default();
        for intent in &notes.intents {
            let len = intent.data.len() as u64;
            let same = |a: &&Applied| a.offset == intent.offset && a.data.len() as u64 == len;
            let twice: Vec<_> = notes.applied.iter().filter(same).collect();
            if twice.len() > 1 {
                report.doubled.push((intent.offset, len));
            }
            if twice.iter().any(|a| a.data != intent.data) {
                report.conflicting.push((intent.offset, len));
            }
        }
        for applied in &notes.applied {
            let (start, end) = (applied.offset, applied.offset + applied.data.len() as u64);
            let covers = |i: &Intent| i.offset <= start && end <= i.offset + i.data.len() as u64;
            if !notes.intents.iter().any(covers) {
                report.foreign.push((start, end - start));
            }
        }
        report
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries out a request, and records a write that succeeded.
pub(in crate::server) fn noting(
    job: Job,
    faults: Option<&mut Faults>,
) -> impl Future<Output = Answer<Bytes>> + Send + use<> {
    let shadow = faults.and_then(|f| f.shadow());
    async move {
        let shadow = shadow.filter(|_| job.incoming.command() == CommandType::WRITE);
        let Some((shadow, connection)) = shadow else {
            return execute(job).await;
        };
        let (offset, data) = (job.incoming.request.offset, job.incoming.payload.clone());
        let answer = execute(job).await;
        if answer == Answer::Done {
            shadow.applied(connection, offset, &data.into());
        }
        answer
    }
}

async fn contents(backend: &impl Backend, offset: u64, len: u64) -> Result<Vec<u8>, BackendError> {
    let mut data = Vec::with_capacity(len as usize);
    for piece in backend.read(offset, len).await? {
        match piece {
            Piece::Data(bytes) => data.extend_from_slice(&bytes),
            Piece::Hole(n) => data.resize(data.len() + n as usize, 0),
        }
    }
    Ok(data)
}
