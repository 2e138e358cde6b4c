//! Which descriptors a process gets.

use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};

use imgtools::process::{Command, ProcessError};

use super::{LONG, sh};

#[test]
fn file_descriptors_arrive_under_their_numbers_whatever_ours_are() {
    let file = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    };
    // The numbers are crossed: each file has the number that the other one is to get.
    let (one, two) = (file("one"), file("two"));
    let (for_one, for_two) = (two.as_raw_fd(), one.as_raw_fd());
    // This one is ours and would be inherited: it has no close-on-exec flag.
    let stray = rustix::io::dup(file("stray")).unwrap();
    // bash, because dash does not support two-digit descriptors.
    let script = format!("cat <&{for_one}; cat <&{for_two}; ls /proc/self/fd");
    let command = Command::new("bash").args(["-c", &script]).deadline(LONG);
    let command = command.fd(one, for_one).fd(two, for_two).fd(file("x"), 200);
    let output = command.run_blocking().unwrap().check().unwrap();
    drop(stray);
    let text = output.stdout_text();
    let fds: Vec<&str> = text.strip_prefix("onetwo").unwrap().lines().collect();
    // The three standard ones, the ones that were given, and the folder that ls reads.
    assert_eq!(fds.len(), 3 + 3 + 1, "{fds:?}");
}

#[test]
fn a_failed_start_is_an_error_also_with_passed_descriptors_and_while_others_open_and_close_files() {
    // Every low number is taken over in the child; if the channel that reports a failed exec were
    // among them, the failure would go unnoticed. Other threads release such numbers at any moment.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let files = [0; 6].map(|_| std::fs::File::open("/dev/null").unwrap());
                    drop(files);
                }
            });
        }
        let errors = (0..100).map(|_| {
            let mut command = Command::new("/nowhere/tool");
            for number in 3..40 {
                command = command.fd(std::fs::File::open("/dev/null").unwrap(), number);
            }
            command.run_blocking()
        });
        let wrong = errors.filter(|error| !matches!(error, Err(ProcessError::Spawn { .. })));
        let wrong: Vec<_> = wrong.collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(wrong.is_empty(), "{}: {:?}", wrong.len(), wrong[0]);
    });
}

#[test]
fn a_descriptor_cannot_have_any_number() {
    for number in [-1, 1, 2, i32::MAX] {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = Command::new("true").fd(file, number).run_blocking();
        let Err(ProcessError::Spawn { source, .. }) = error else {
            panic!("{error:?}")
        };
        assert!(source.raw_os_error().is_some(), "{source}");
    }
}

#[test]
fn descriptors_that_are_open_by_accident_do_not_reach_a_child() {
    let file = tempfile::tempfile().unwrap();
    let stray = file.as_fd().try_clone_to_owned().unwrap();
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    let output = sh("ls /proc/self/fd").run_blocking().unwrap();
    let numbers: Vec<i32> =
        output.stdout_text().lines().map(|number| number.parse().unwrap()).collect();
    // The standard ones, and that of ls itself.
    assert_eq!(numbers, [0, 1, 2, 3]);
    drop(stray);
}
