//! Our own NBD client, as the guest of a storage daemon and as the client of an export: starting a
//! tool for each request would take longer than everything that QEMU does.

use nbd::proto::CommandFlags;

use crate::author::failure::{CaseResult, Failure};
use crate::author::storage::Request;
use crate::case::Cache;

/// The maximum size of a request of QEMU's own client, which is also the default maximum of a
/// server.
const MOST: u64 = 32 << 20;

/// Sends the requests and disconnects, unless the export does not accept them as they are; returns
/// whether it does. With some cache modes, each write is flushed.
pub(super) async fn try_send(
    client: nbd::Client,
    requests: &[Request],
    cache: Cache,
) -> CaseResult<bool> {
    let fits = fit(&client, requests);
    let sent = match fits {
        true => {
            let durable = matches!(cache, Cache::Writethrough | Cache::Directsync);
            send(&client, requests, durable).await
        }
        false => Ok(()),
    };
    // If the server is gone, a request has already failed.
    let _ = client.disconnect().await;
    sent.map(|()| fits)
}

/// Whether the export accepts these requests as they are, without reading a larger block around
/// them.
fn fit(client: &nbd::Client, requests: &[Request]) -> bool {
    let block = client.export().block_sizes.map_or(1, |sizes| sizes.minimum);
    let aligned = |at: u64| at.is_multiple_of(u64::from(block.max(1)));
    let range = |request: &Request| request.range();
    let mut ranges = requests.iter().filter_map(range);
    ranges.all(|range| aligned(range.start) && aligned(range.end))
}

/// Sends the requests one after another; writes are `durable` at once, or when flushed.
async fn send(client: &nbd::Client, requests: &[Request], durable: bool) -> CaseResult {
    let flags = match durable {
        true => CommandFlags::FUA,
        false => CommandFlags::empty(),
    };
    for request in requests {
        let range = request.range().unwrap_or_default();
        let length = range.end - range.start;
        match request {
            Request::Flush => client.flush().await?,
            Request::Discard(_) => client.trim_with(range.start, length, flags).await?,
            Request::Zero(_) => {
                let flags = flags | CommandFlags::NO_HOLE;
                client.write_zeroes(range.start, length, flags).await?;
            }
            Request::Write(byte, _) => {
                for start in range.clone().step_by(MOST as usize) {
                    let length = MOST.min(range.end - start);
                    let data = vec![*byte; length as usize];
                    client.write_with(start, data, flags).await?;
                }
            }
            Request::Read(byte, _) => {
                let mut data = Vec::new();
                let expected = vec![*byte; MOST.min(length) as usize];
                for start in range.clone().step_by(MOST as usize) {
                    let length = MOST.min(range.end - start);
                    data = client.read_into(start, length, data).await?;
                    if let Some(at) = first_difference(&data, &expected) {
                        let (place, found) = (start + at as u64, data[at]);
                        return Err(Failure::new(format!(
                            "Pattern verification failed at offset {place}: {found:#04x}, expected {byte:#04x}"
                        )));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The first offset at which these bytes differ from the expected ones.
fn first_difference(data: &[u8], expected: &[u8]) -> Option<usize> {
    match data == &expected[..data.len()] {
        true => None,
        false => data.iter().zip(expected).position(|(one, other)| one != other),
    }
}

#[cfg(test)]
mod tests {
    use nbd::client::BlockSizes;
    use nbd::proto::CommandType;
    use nbd::server::journal::Entry;
    use nbd::server::{Event, Export, Server, backend::MemoryBackend};

    use super::*;

    const MIB: u64 = 1 << 20;

    async fn sent(cache: Cache) -> Vec<(CommandType, CommandFlags, u64, u64)> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let sizes = BlockSizes {
            minimum: 4096,
            ..BlockSizes::default()
        };
        let export = Export::new(MemoryBackend::new(64 * MIB)).block_sizes(sizes);
        let server = Server::builder().export(export);
        let server = server.listen_unix(&socket).unwrap();
        let sent = async |requests: &[Request]| {
            let client = nbd::Client::builder().connect_unix(&socket).await.unwrap();
            try_send(client, requests, cache).await
        };

        for unaligned in [0..512, 512..4096] {
            let requests = [Request::Write(7, 0..4096), Request::Read(7, unaligned)];
            assert!(!sent(&requests).await.unwrap());
        }
        let requests = [
            Request::Write(7, 0..33 * MIB),
            Request::Zero(0..4096),
            Request::Discard(4096..8192),
            Request::Flush,
            Request::Read(0, 0..4096),
            Request::Read(7, 8192..33 * MIB),
        ];
        assert!(sent(&requests).await.unwrap());
        let wrong = sent(&[Request::Read(7, 32 * MIB..34 * MIB)]).await;
        let wrong = wrong.unwrap_err().to_string();
        assert!(
            wrong.ends_with("at offset 34603008: 0x00, expected 0x07"),
            "{wrong}"
        );

        let journal = server.finish().await.unwrap();
        let request = |entry: &Entry| match entry.event {
            Event::Request {
                command,
                flags,
                offset,
                len,
                ..
            } if command != CommandType::READ && command != CommandType::DISC => {
                // The interpretation of its length depends on the protocol's mode.
                Some((command, flags - CommandFlags::PAYLOAD_LEN, offset, len))
            }
            _ => None,
        };
        journal.entries().iter().filter_map(request).collect()
    }

    /// The types, flags and sizes of requests are those of QEMU's own client.
    #[tokio::test]
    async fn requests_arrive_as_they_were_meant() {
        let none = CommandFlags::empty();
        for (cache, fua) in [
            (Cache::Writeback, none),
            (Cache::None, none),
            (Cache::Writethrough, CommandFlags::FUA),
            (Cache::Directsync, CommandFlags::FUA),
        ] {
            let expected = [
                (CommandType::WRITE, fua, 0, 32 * MIB),
                (CommandType::WRITE, fua, 32 * MIB, MIB),
                (
                    CommandType::WRITE_ZEROES,
                    fua | CommandFlags::NO_HOLE,
                    0,
                    4096,
                ),
                (CommandType::TRIM, fua, 4096, 4096),
                (CommandType::FLUSH, none, 0, 0),
            ];
            assert_eq!(sent(cache).await, expected);
        }
    }
}
