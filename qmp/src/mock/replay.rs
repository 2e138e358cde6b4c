//! Plays QEMU's part of a recorded session.

use std::collections::HashMap;
use std::io;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::frame::Framer;
use crate::transcript::{Direction, Entry};

/// A recorded session to be replayed with a client.
///
/// QEMU's messages are sent again, each after the commands that preceded it in the recording.
/// Commands must arrive in the recorded order; their ids may differ, and are put into the replies.
#[derive(Clone, Debug)]
pub struct Replay {
    entries: Vec<Entry>,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The client sent something else.
    #[error("failed to replay entry {entry}: the client sent {found}, expected {expected}")]
    Differs {
        /// The entry, counted from 1.
        entry: usize,
        /// What is recorded.
        expected: String,
        /// What the client sent.
        found: String,
    },
    /// The client disconnected.
    #[error("failed to replay entry {entry}: the client disconnected, expected {expected}")]
    Left {
        /// The entry, counted from 1.
        entry: usize,
        /// What is recorded.
        expected: String,
    },
    /// An entry, or what the client sent, is not JSON.
    #[error("failed to replay entry {entry}: {message}")]
    NotJson {
        /// The entry, counted from 1.
        entry: usize,
        /// What is wrong.
        message: String,
    },
    /// Reading or writing failed.
    #[error("failed to talk to the client")]
    Io(#[from] io::Error),
}

impl Replay {
    /// A replay of these entries; see [`crate::transcript::parse`] for files.
    pub fn new(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// Plays the whole session to one client, then closes the connection.
    ///
    /// # Errors
    /// When the client deviates from the recording.
    pub async fn serve<S>(self, stream: S) -> Result<(), ReplayError>
    where
        S: AsyncRead + AsyncWrite,
    {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut framer = Framer::default();
        let mut buffer = vec![0; 16 << 10];
        let mut ids: HashMap<String, Value> = HashMap::new();
        for (index, entry) in self.entries.iter().enumerate() {
            let number = index + 1;
            let not_json = |error: serde_json::Error| ReplayError::NotJson {
                entry: number,
                message: error.to_string(),
            };
            let mut recorded: Value = serde_json::from_str(&entry.text).map_err(not_json)?;
            match entry.direction {
                Direction::In => {
                    if let Some(id) = recorded.get_mut("id")
                        && let Some(actual) = ids.get(&id.to_string())
                    {
                        *id = actual.clone();
                    }
                    writer.write_all(format!("{recorded}\r\n").as_bytes()).await?;
                    writer.flush().await?;
                }
                Direction::Out => {
                    let sent = loop {
                        match framer.next_frame() {
                            Some(Ok(frame)) => {
                                break serde_json::from_slice::<Value>(frame.bytes)
                                    .map_err(not_json)?;
                            }
                            Some(Err(error)) => {
                                let message = error.to_string();
                                return Err(ReplayError::NotJson {
                                    entry: number,
                                    message,
                                });
                            }
                            None => match reader.read(&mut buffer).await? {
                                0 => {
                                    let expected = entry.text.clone();
                                    return Err(ReplayError::Left {
                                        entry: number,
                                        expected,
                                    });
                                }
                                count => framer.push(&buffer[..count]),
                            },
                        }
                    };
                    match_ids(&mut ids, &mut recorded, sent).map_err(|found| {
                        ReplayError::Differs {
                            entry: number,
                            expected: entry.text.clone(),
                            found,
                        }
                    })?;
                }
            }
        }
        writer.shutdown().await?;
        Ok(())
    }
}

/// Compares commands except for their ids, which it records; returns what was sent if they differ.
fn match_ids(
    ids: &mut HashMap<String, Value>,
    recorded: &mut Value,
    mut sent: Value,
) -> Result<(), String> {
    let text = sent.to_string();
    let (old, new) = (take_id(recorded), take_id(&mut sent));
    if let (Some(old), Some(new)) = (old, new) {
        ids.insert(old.to_string(), new);
    }
    if same(recorded, &sent) {
        Ok(())
    } else {
        Err(text)
    }
}

fn take_id(message: &mut Value) -> Option<Value> {
    message.as_object_mut()?.remove("id")
}

/// Equal, or redacted in the recording.
fn same(recorded: &Value, sent: &Value) -> bool {
    match (recorded, sent) {
        (Value::String(text), Value::String(_)) if text == "REDACTED" => true,
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (a, b) => a == b,
    }
}
