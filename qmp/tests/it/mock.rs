//! What the mock monitor shows of a client.

use std::io::Read as _;

use qmp::mock::Answer;
use qmp::{Client, Options};
use serde_json::json;
use tokio::net::UnixStream;

use crate::calls::echo;

#[tokio::test]
async fn a_request_has_the_descriptor_that_came_with_it_or_was_left_by_another() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let monitor = echo().on("getfd", |_| Answer::value(json!({})));
    let control = monitor.spawn_unix(theirs);
    let client = Client::from_unix_stream(ours, Options::default());
    let client = client.await.unwrap();
    let pipe = || std::io::pipe().unwrap();
    let ((mut first, first_end), (mut second, second_end)) = (pipe(), pipe());
    let getfd = || client.execute("getfd", json!({"fdname": "x"}));

    getfd().fd(first_end).await.unwrap();
    getfd().await.unwrap();
    // QEMU keeps a descriptor that a command did not want for the next one that does.
    client.execute("echo", ()).fd(second_end).await.unwrap();
    getfd().await.unwrap();

    let requests = control.requests();
    let fds: Vec<_> = requests.iter().map(|request| request.fd.as_ref()).collect();
    assert_eq!(
        fds.iter().map(|fd| fd.is_some()).collect::<Vec<_>>(),
        [true, false, false, true]
    );
    for (fd, pipe, text) in [(fds[0], &mut first, b"1"), (fds[3], &mut second, b"2")] {
        rustix::io::write(fd.unwrap(), text).unwrap();
        let flags = rustix::io::fcntl_getfd(fd.unwrap()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let mut found = [0];
        pipe.read_exact(&mut found).unwrap();
        assert_eq!(found, *text);
    }
}
