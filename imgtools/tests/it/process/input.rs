//! What a process is given to read.

use imgtools::process::{Command, Status, Stream};

use super::{LONG, sh};

#[test]
fn a_tool_that_closes_stdin_gets_no_more_and_is_no_error() {
    let data = vec![b'x'; 10 << 20];
    let output = sh("exec <&-; echo done").stdin_data(data).run_blocking().unwrap();
    assert_eq!(
        (output.status, &*output.stdout_text()),
        (Status::Exited(0), "done\n")
    );
}

#[test]
fn stdin_is_empty_unless_given() {
    assert_eq!(Command::new("cat").run_blocking().unwrap().stdout, b"");
    let data: Vec<u8> = (0..1 << 20).map(|index: u32| (index % 251) as u8).collect();
    let output =
        Command::new("cat").deadline(LONG).stdin_data(data.clone()).run_blocking().unwrap();
    assert!(output.stdout == data);
}

#[tokio::test]
async fn input_can_be_sent_piece_by_piece() {
    let child = Command::new("cat").deadline(LONG).stdin_piped().spawn_async().await.unwrap();
    for piece in ["one\n", "two\n"] {
        let before = child.view(|view| view.end(Stream::Stdout));
        assert!(child.write(piece));
        let seen = child.until(|view| {
            let new = view.from(Stream::Stdout, before);
            new.ends_with(b"\n").then(|| new.to_vec())
        });
        assert_eq!(seen.await.unwrap(), piece.as_bytes());
    }
    child.close_stdin();
    assert!(!child.write("three\n"));
    let output = child.wait().await.unwrap();
    assert_eq!(
        (output.status, &*output.stdout_text()),
        (Status::Exited(0), "one\ntwo\n")
    );
}

#[tokio::test]
async fn writing_to_a_process_that_has_closed_its_input_is_told() {
    let child = sh("exec <&-; echo; read x").stdin_piped().spawn().unwrap();
    child.closed().await;
    child.wait().await.unwrap();
    assert!(!child.write("x"));
}
