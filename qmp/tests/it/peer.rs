//! A manual QEMU on the test's thread, which therefore knows where each byte is.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;

use qmp::frame::Framer;
use qmp::{Client, Options};
use serde_json::{Value, json};

/// Both ends of a connection, the client's as a second descriptor to look at.
pub(crate) struct Peer<S> {
    theirs: S,
    ours: OwnedFd,
    framer: Framer,
}

impl<S: Read + Write> Peer<S> {
    pub(crate) fn new(ours: &OwnedFd, theirs: S) -> Self {
        Self {
            theirs,
            ours: ours.try_clone().expect("a second descriptor"),
            framer: Framer::default(),
        }
    }

    /// Writes; the bytes are in the client's buffer of the kernel when this returns.
    pub(crate) fn say(&mut self, text: &str) {
        self.say_bytes(text.as_bytes());
    }

    /// Writes what need not be text.
    pub(crate) fn say_bytes(&mut self, bytes: &[u8]) {
        let before = self.unread();
        self.theirs.write_all(bytes).expect("room");
        while self.unread() < before + bytes.len() as u64 {
            // TCP may take a moment, and nothing reads meanwhile.
            std::thread::yield_now();
        }
    }

    /// How many bytes the client has not read.
    fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.ours).expect("a count")
    }

    /// Returns when the client has read everything.
    pub(crate) async fn heard(&self) {
        while self.unread() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Reads what the client has sent, at least one byte and at most `most`.
    pub(crate) async fn listen(&mut self, most: usize) {
        let mut piece = vec![0; most];
        loop {
            match self.theirs.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::task::yield_now().await;
                }
                count => return self.framer.push(&piece[..count.expect("bytes")]),
            }
        }
    }

    /// Whether the client has disconnected, as visible at this moment.
    pub(crate) fn is_left(&mut self) -> bool {
        matches!(self.theirs.read(&mut [0]), Ok(0))
    }

    /// The next command.
    pub(crate) async fn command(&mut self) -> Value {
        loop {
            if let Some(frame) = self.framer.next_frame() {
                let text = frame.expect("a command").bytes;
                return serde_json::from_slice(text).expect("JSON");
            }
            self.listen(64 << 10).await;
        }
    }
}

pub(crate) const GREETING: &str = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \"package\": \"\"}, \"capabilities\": []}}\r\n";

pub(crate) async fn connect<S, T>(ours: T, theirs: S) -> (Client, Peer<S>)
where
    S: Read + Write,
    OwnedFd: From<T>,
{
    let ours = OwnedFd::from(ours);
    let mut peer = Peer::new(&ours, theirs);
    let greet = async {
        peer.say(GREETING);
        let command = peer.command().await;
        peer.say(&reply(&command));
    };
    let (client, ()) = tokio::join!(Client::from_fd(ours, Options::default()), greet);
    peer.heard().await;
    (client.expect("a session"), peer)
}

/// An empty reply to a command.
pub(crate) fn reply(command: &Value) -> String {
    format!("{}\r\n", json!({"return": {}, "id": command["id"]}))
}
