//! Calls: values, errors, deadlines, cancellation, the end of a session.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use qmp::mock::{Answer, Control, Monitor};
use qmp::{Client, Closed, Error, ErrorClass, EventCache, Options, ReplyError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub(crate) async fn connect(monitor: Monitor) -> (Client, Control) {
    connect_with(monitor, options()).await
}

/// Events are kept, so that a test may look for one that has come already.
pub(crate) fn options() -> Options {
    Options::default().cache_events(8192)
}

pub(crate) fn cache(client: &Client) -> EventCache {
    client.event_cache().expect("events are kept")
}

pub(crate) async fn connect_with(monitor: Monitor, options: Options) -> (Client, Control) {
    let (ours, theirs) = tokio::io::duplex(4096);
    let control = monitor.spawn(theirs);
    (session(ours, options).await, control)
}

async fn session(stream: DuplexStream, options: Options) -> Client {
    Client::from_stream(stream, options).await.expect("a session")
}

/// A session over a stream that buffers `room` bytes, with a peer that has greeted and reads
/// nothing.
async fn with_idle_peer(room: usize) -> (Client, DuplexStream) {
    let (ours, mut theirs) = tokio::io::duplex(room);
    let greet = async {
        let greeting = crate::peer::GREETING.as_bytes();
        theirs.write_all(greeting).await.unwrap();
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(theirs.read_u8().await.unwrap());
        }
        let reply = crate::peer::reply(&serde_json::from_slice(&line).unwrap());
        theirs.write_all(reply.as_bytes()).await.unwrap();
        theirs
    };
    tokio::join!(session(ours, Options::default()), greet)
}

/// A monitor whose `echo` returns its arguments and whose `never` does not answer.
pub(crate) fn echo() -> Monitor {
    Monitor::new()
        .on("echo", |request| {
            Answer::value(Value::Object(request.arguments.clone()))
        })
        .on("never", |_| Answer::silence())
}

#[tokio::test]
async fn every_json_value_can_be_returned() {
    let values = json!([
        null, true, 0, -1, u64::MAX, i64::MIN, 1.5, "", "\u{0}\u{1F600}\u{FFFD}", [], {},
        [null], {"a": {"b": [1, 2, {"c": null}]}},
    ]);
    let table = values.clone();
    let monitor = Monitor::new().on("get", move |request| {
        let at = request.arguments["at"].as_u64().unwrap() as usize;
        Answer::value(table[at].clone())
    });
    for monitor in [
        monitor.clone(),
        monitor.clone().pretty(),
        monitor.without_oob(),
    ] {
        let (client, _control) = connect(monitor).await;
        for (at, want) in values.as_array().unwrap().iter().enumerate() {
            assert_eq!(
                &client.execute("get", json!({"at": at})).await.unwrap(),
                want
            );
        }
    }
}

#[tokio::test]
async fn a_return_value_goes_into_a_type_and_errors_name_the_place() {
    #[derive(Debug, serde::Serialize)]
    struct Get;
    #[derive(Debug, serde::Deserialize)]
    struct Item {
        #[allow(dead_code)]
        size: u64,
    }
    impl qmp::Command for Get {
        const NAME: &'static str = "get";
        type Return = Vec<Item>;
    }
    let (client, _control) = connect(Monitor::new().on("get", |_| {
        Answer::value(json!([{"size": 1}, {"size": "big"}]))
    }))
    .await;
    let error = client.execute("get", json!({})).await.unwrap();
    assert_eq!(error[1]["size"], "big");
    let error = client.call(Get).await;
    // `Get` serializes to null, which stands for no arguments.
    let Err(Error::Reply { command, source }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(command, "get");
    let ReplyError::Decode { source, raw } = *source else {
        panic!("{source:?}")
    };
    assert_eq!(source.path, "return[1].size");
    assert!(raw.contains("big"));
}

#[tokio::test]
async fn an_error_keeps_command_id_class_description_and_reply() {
    let monitor = Monitor::new().otherwise(|_| {
        Answer::silence().raw("{\"error\": {\"class\": \"NewClass\", \"desc\": \"d\"}, \"id\": ")
    });
    let (client, control) = connect(monitor).await;
    let call = tokio::spawn(client.execute("fail", ()).into_future());
    while control.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    let id = control.requests()[0].id.clone().unwrap();
    control.raw(format!("{id}, \"more\": 1}}\r\n"));
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.class(), Some(&ErrorClass::Other("NewClass".into())));
    assert_eq!(error.to_string(), "failed to execute fail: NewClass: d");
    let error = error.command().unwrap();
    assert_eq!((error.command.as_str(), error.desc.as_str()), ("fail", "d"));
    assert_eq!(json!(error.id), id);
    assert!(error.raw.ends_with("\"more\": 1}"), "{}", error.raw);
}

#[tokio::test]
async fn what_qemu_could_not_attribute_is_refused_and_nothing_is_sent() {
    let (client, control) = connect(echo()).await;
    for arguments in [json!({"a": "\u{FFFE}"}), json!([1])] {
        let error = client.execute("echo", arguments).await.unwrap_err();
        assert!(matches!(error, Error::Encode { .. }), "{error:?}");
    }
    let fd = std::fs::File::open("/dev/null").unwrap();
    let error = client.execute("getfd", json!({"fdname": "a"})).fd(fd).await.unwrap_err();
    assert!(
        matches!(error, Error::Encode { .. }),
        "a duplex stream carries no descriptors"
    );
    client.execute("echo", ()).await.unwrap();
    assert_eq!(control.requests().len(), 1);
}

#[tokio::test]
async fn a_deadline_ends_one_call_and_the_next_is_served() {
    let options = Options::default().call_deadline(Duration::from_millis(20));
    let (client, _control) = connect_with(echo(), options).await;
    let error = client.execute("never", ()).await.unwrap_err();
    assert!(
        error.is_timeout() && error.to_string().contains("never"),
        "{error}"
    );
    let error = client.execute("never", ()).deadline(Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { after, .. } if after.as_millis() == 1));
    let patient = client.with_deadline(Duration::from_secs(60));
    assert_eq!(
        patient.execute("echo", json!({"n": 1})).await.unwrap(),
        json!({"n": 1})
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_may_have_more_time_than_others_and_its_event_no_more_than_itself() {
    let options = Options::default().call_deadline(Duration::from_secs(1));
    let slow = Monitor::new().on("slow", |_| Answer::silence()).on("stop", |_| Answer::empty());
    let (client, control) = connect_with(slow, options).await;
    let call = tokio::spawn(client.execute("slow", ()).no_deadline().into_future());
    let request = control.next_request().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    control.raw(json!({"return": 5, "id": request.id}).to_string());
    assert_eq!(call.await.unwrap().unwrap(), 5);

    let stop = || client.execute("stop", ()).and_event("STOP");
    let started = tokio::time::Instant::now();
    assert!(stop().await.unwrap_err().is_timeout());
    assert_eq!(started.elapsed(), Duration::from_secs(1));
    let patient = stop().deadline(Duration::from_secs(9));
    assert!(patient.await.unwrap_err().is_timeout());
    assert_eq!(started.elapsed(), Duration::from_secs(10));
}

/// QEMU has stopped: to stop it again elsewhere may be wrong.
#[tokio::test]
async fn a_command_whose_event_has_not_come_when_the_session_ends_was_sent() {
    let monitor = Monitor::new().on("stop", |_| Answer::empty().close());
    let (client, _control) = connect(monitor).await;
    let stop = client.execute("stop", ()).and_event("STOP");
    let error = stop.await.unwrap_err();
    assert!(
        matches!(error, Error::Closed { sent: true, .. }),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "failed to see STOP after stop: the QMP session has ended, and QEMU may have executed the \
         command"
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_not_answered_holds_up_neither_the_next_one_nor_the_end() {
    let silent = || Duration::from_secs(5);
    let (client, _control) = connect_with(echo(), Options::default().in_band_limit(1)).await;
    let (first, second) = tokio::join!(
        client.execute("never", ()).unless_refused(silent()),
        client.execute("echo", json!({"n": 1})).into_future(),
    );
    first.unwrap();
    assert_eq!(second.unwrap(), json!({"n": 1}));
    let (last, closed) = tokio::join!(
        client.execute("never", ()).unless_refused(silent()),
        client.close()
    );
    last.unwrap();
    closed.unwrap();
}

#[tokio::test]
async fn a_dropped_call_leaves_no_partial_line_however_slow_the_stream() {
    // Three bytes at a time: every line is written in many pieces.
    let (ours, theirs) = tokio::io::duplex(3);
    let control = echo().spawn(theirs);
    let client = session(ours, Options::default()).await;
    for polls in 0..40 {
        let mut future = client.execute("echo", json!({"text": "x".repeat(50)})).into_future();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..polls {
            if future.as_mut().poll(&mut cx).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(future);
        assert_eq!(
            client.execute("echo", json!({"n": polls})).await.unwrap(),
            json!({"n": polls})
        );
    }
    let well_formed = control.requests().iter().all(|request| request.name == "echo");
    assert!(well_formed, "{:?}", control.requests());
    assert_eq!(client.outstanding(), (0, 0));
}

#[tokio::test]
async fn when_the_stream_ends_all_pending_calls_fail_with_the_cause() {
    for (last, cut) in [("", false), ("{\"return\": {\"a", true)] {
        let (client, control) = connect(echo()).await;
        let calls: Vec<_> =
            (0..20).map(|_| tokio::spawn(client.execute("never", ()).into_future())).collect();
        let mut events = client.subscribe(qmp::Matcher::any());
        while client.outstanding() != (7, 13) {
            tokio::task::yield_now().await;
        }
        control.raw(last);
        control.close();
        for (at, call) in calls.into_iter().enumerate() {
            let error = call.await.unwrap().unwrap_err();
            let Error::Closed { cause, sent, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(*sent, at < 7, "the others have waited on this side");
            assert_eq!(matches!(cause, Closed::Cut(_)), cut, "{cause:?}");
            assert_eq!(matches!(cause, Closed::Eof), !cut, "{cause:?}");
        }
        assert!(matches!(
            events.recv().await,
            Err(qmp::RecvError::Closed(_))
        ));
        assert!(cache(&client).wait("STOP").await.unwrap_err().is_closed());
        assert!(client.execute("echo", ()).await.unwrap_err().is_closed());
        assert_eq!(client.outstanding(), (0, 0), "nothing is kept");
        let mut late = client.subscribe("STOP");
        assert!(late.recv().await.is_err());
        client.closed().await;
    }
}

/// Looks at a client at the moment when its call is woken.
struct Look {
    client: Client,
    closed: AtomicU64,
}

impl std::task::Wake for Look {
    fn wake(self: Arc<Self>) {
        let closed = self.client.closed_cause().is_some();
        self.closed.store(1 + u64::from(closed), Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_client_knows_that_it_is_closed_no_later_than_its_calls() {
    let (client, control) = connect(echo()).await;
    let look = Arc::new(Look {
        client: client.clone(),
        closed: AtomicU64::new(0),
    });
    let waker = Waker::from(Arc::clone(&look));
    let mut call = client.execute("never", ()).into_future();
    let polled = call.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    control.close();
    client.closed().await;
    assert_eq!(look.closed.load(Ordering::Relaxed), 2);
}

#[test]
fn an_error_and_its_causes_tell_everything_and_nothing_twice() {
    let broken = || Closed::Io(Arc::new(std::io::ErrorKind::ConnectionReset.into()));
    let closed = |cause| Error::Closed {
        task: "execute stop".into(),
        cause,
        sent: false,
    };
    let decode = qmp::decode::DecodeError {
        path: "return[1].size".into(),
        message: "invalid type".into(),
    };
    let reply = Error::Reply {
        command: "get".into(),
        source: Box::new(ReplyError::Decode {
            source: decode,
            raw: "[1]".into(),
        }),
    };
    let connect = |cause| {
        Error::from(qmp::ConnectError::Closed {
            endpoint: "qmp.sock".into(),
            cause,
        })
    };
    let encode = Error::Encode {
        command: "get".into(),
        source: qmp::encode::EncodeError::NoDescriptors,
    };
    let all: [(Box<dyn std::error::Error>, &[&str]); 7] = [
        (closed(Closed::Eof).into(), &["execute stop", "QEMU closed"]),
        (closed(broken()).into(), &["broke", "reset"]),
        (connect(Closed::Eof).into(), &["qmp.sock", "QEMU closed"]),
        (connect(broken()).into(), &["qmp.sock", "broke", "reset"]),
        (reply.into(), &["get", "[1]", "return[1].size"]),
        (encode.into(), &["get", "only Unix sockets"]),
        (qmp::RecvError::Closed(broken()).into(), &["event", "reset"]),
    ];
    for (error, wanted) in all {
        let chain = std::iter::successors(Some(&*error), |error| error.source());
        let texts: Vec<String> = chain.map(ToString::to_string).collect();
        let whole = texts.join(": ");
        assert!(wanted.iter().all(|text| whole.contains(text)), "{whole}");
        for (at, cause) in texts.iter().enumerate().skip(1) {
            assert!(!texts[..at].join(": ").contains(cause), "twice: {whole}");
        }
    }
}

#[tokio::test]
async fn quit_is_well_with_a_reply_or_an_end_or_both() {
    let answers: [fn() -> Answer; 4] = [
        || Answer::empty(),
        || Answer::empty().close(),
        || Answer::silence().close(),
        || Answer::silence().raw("{\"ret").close(),
    ];
    for answer in answers {
        let (client, _control) = connect(Monitor::new().on("quit", move |_| answer())).await;
        client.quit().await.unwrap();
    }
    let (client, _control) = connect(Monitor::new().on("quit", |_| Answer::error("not now"))).await;
    assert_eq!(client.quit().await.unwrap_err().desc(), Some("not now"));
    let (client, control) = connect(Monitor::new()).await;
    control.close();
    client.closed().await;
    assert!(
        client.quit().await.unwrap_err().is_closed(),
        "nothing was asked to quit"
    );
}

/// Both wait behind a command that is not answered, and the peer leaves.
#[tokio::test]
async fn a_command_that_ends_the_peer_has_not_succeeded_if_it_was_never_sent() {
    const LONG: Duration = Duration::from_secs(60);
    let options = Options::default().in_band_limit(1);
    let (client, control) = connect_with(echo(), options).await;
    let first = client.execute("never", ());
    let quit = async {
        control.next_request().await.unwrap();
        let ends = async {
            while client.outstanding() != (1, 2) {
                tokio::task::yield_now().await;
            }
            control.close();
        };
        let silent = client.execute("never", ()).unless_refused(LONG);
        tokio::join!(client.quit(), silent, ends)
    };
    let (first, (quit, silent, ())) = tokio::join!(first.into_future(), quit);
    for (result, was_sent) in [(first.map(drop), true), (quit, false), (silent, false)] {
        let Err(Error::Closed { sent, .. }) = result else {
            panic!("{result:?}")
        };
        assert_eq!(sent, was_sent);
    }
}

#[tokio::test]
async fn an_oob_command_passes_a_thousand_that_wait() {
    let monitor = echo().on("yank", |_| Answer::empty()).allow_oob("yank");
    let (client, control) = connect(monitor).await;
    control.block();
    let done = Arc::new(AtomicU64::new(0));
    let calls: Vec<_> = (0..1000)
        .map(|n| {
            let (call, done) = (client.execute("echo", json!({"n": n})), Arc::clone(&done));
            tokio::spawn(async move {
                assert_eq!(call.await.unwrap(), json!({"n": n}));
                done.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    while client.outstanding() != (7, 993) {
        tokio::task::yield_now().await;
    }
    client.execute("yank", ()).oob().await.unwrap();
    assert_eq!(done.load(Ordering::Relaxed), 0);
    assert_eq!(control.most_queued(), 7);
    control.unblock();
    for call in calls {
        call.await.unwrap();
    }
    // The mock would stop reading at the eighth, as QEMU does.
    assert_eq!(control.most_queued(), 7);
}

#[tokio::test]
async fn eight_commands_in_flight_would_stop_a_monitor_from_reading_oob() {
    let monitor = echo().on("yank", |_| Answer::empty()).allow_oob("yank");
    let (client, control) = connect_with(monitor, Options::default().in_band_limit(8)).await;
    control.block();
    let calls: Vec<_> =
        (0..8).map(|_| tokio::spawn(client.execute("echo", ()).into_future())).collect();
    while control.most_queued() < 8 {
        tokio::task::yield_now().await;
    }
    let stuck = client.execute("yank", ()).oob().deadline(Duration::from_millis(50)).await;
    assert!(stuck.unwrap_err().is_timeout());
    control.unblock();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_oob_command_without_oob_is_refused_and_disturbs_nobody() {
    let monitor = echo().on("yank", |_| Answer::empty()).allow_oob("yank");
    let (client, control) = connect(monitor.without_oob()).await;
    let never = tokio::spawn(client.execute("never", ()).into_future());
    while !control.requests().iter().any(|request| request.name == "never") {
        tokio::task::yield_now().await;
    }
    let error = client.execute("yank", ()).oob().await.unwrap_err();
    assert!(error.desc().unwrap().contains("exec-oob"), "{error}");
    assert!(!never.is_finished());
    let reply = client.execute("echo", json!({"n": 1})).await.unwrap();
    assert_eq!(reply, json!({"n": 1}));
    never.abort();
}

#[tokio::test]
async fn a_session_ends_with_its_last_client_and_leaves_no_task() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before_tasks = tasks();
    for _ in 0..50 {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}}}"#;
        theirs.write_all(greeting.as_bytes()).await.unwrap();
        let connecting = tokio::spawn(Client::from_unix_stream(ours, Options::default()));
        let mut line = vec![0; 200];
        let count = theirs.read(&mut line).await.unwrap();
        let id = serde_json::from_slice::<Value>(&line[..count]).unwrap()["id"].clone();
        theirs.write_all(json!({"return": {}, "id": id}).to_string().as_bytes()).await.unwrap();
        let client = connecting.await.unwrap().unwrap();
        let mut events = client.subscribe(qmp::Matcher::any());
        let other = client.clone();
        drop(client);
        assert!(other.closed_cause().is_none(), "a clone keeps the session");
        drop(other);
        assert!(matches!(
            events.recv().await,
            Err(qmp::RecvError::Closed(Closed::Local))
        ));
        // The peer sees the end: the descriptor is closed.
        assert_eq!(theirs.read(&mut line).await.unwrap(), 0);
    }
    while tasks() > before_tasks {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn messages_that_cannot_be_read_are_skipped_and_the_session_lives() {
    let monitor = echo().on("bad", |_| {
        Answer::silence().raw("{\"return\": inf, \"id\": 1}\r\n")
    });
    let (client, control) = connect(monitor).await;
    control.raw("not json\r\n{\"event\": \"A\", \"data\": nan}\r\n");
    control.raw(b"{\"event\": \"\xff\xfe\"}\r\n{\"event\": 5}\r\n{}\r\n{\"QMP\": 1}\r\n".to_vec());
    control.raw("{\"event\": \"GOOD\"}\r\n");
    cache(&client).wait("GOOD").await.unwrap();
    assert_eq!(client.execute("echo", ()).await.unwrap(), json!({}));
}

#[tokio::test]
async fn deep_replies_are_read_on_a_small_stack_and_deep_arguments_sent() {
    let chain = |layers: usize| {
        let mut info = json!({"filename": "base", "virtual-size": 1});
        for n in 0..layers {
            info = json!({"filename": format!("layer{n}"), "backing-image": info});
        }
        json!([{"inserted": {"image": info}}])
    };
    let deepest = format!("{{\"x\": {}1{}}}", "[".repeat(1021), "]".repeat(1021));
    let monitor = Monitor::new().on("query-block", move |_| Answer::value(chain(200))).on(
        "deep",
        move |request| {
            let id = request.id.clone().unwrap();
            Answer::silence().raw(format!("{{\"return\": {deepest}, \"id\": {id}}}"))
        },
    );
    // The mock builds its own values, on the main thread; the client runs on 2 MiB.
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let _control = monitor.spawn(theirs);
    let client = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = session(ours, Options::default()).await;
            let mut blocks = client.execute("query-block", ()).await.unwrap();
            let mut image = &mut blocks[0]["inserted"]["image"];
            let mut layers = 0;
            while image.get("backing-image").is_some() {
                image = &mut image["backing-image"];
                layers += 1;
            }
            assert_eq!(layers, 200);
            let deep = client.execute("deep", ()).await.unwrap();
            let mut value = &deep["x"];
            let mut depth = 0;
            while let Some(inner) = value.get(0) {
                value = inner;
                depth += 1;
            }
            assert_eq!(depth, 1021);
        });
    });
    tokio::task::spawn_blocking(|| client.unwrap().join().unwrap()).await.unwrap();
}

/// A panic in user code does not end the session.
#[tokio::test]
async fn a_matcher_or_recorder_that_panics_ends_itself_and_not_the_session() {
    let (options, recorded) = {
        let count = Arc::new(AtomicU64::new(0));
        let recorder = Arc::clone(&count);
        let options = Options::default().record(move |entry| {
            recorder.fetch_add(1, Ordering::Relaxed);
            assert!(!entry.text.contains("\"STOP\""), "the recorder's own fault");
        });
        (options, count)
    };
    let (client, control) = connect_with(echo(), options).await;
    let faulty = qmp::Matcher::any().when(|_| panic!("the matcher's own fault"));
    let mut events = client.subscribe(faulty.clone());
    let mut others = client.subscribe("STOP");
    let both = client.execute("echo", ()).and_event(faulty);
    let both = tokio::spawn(both.into_future());
    while control.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    control.event(qmp::Event::new("STOP"));
    assert_eq!(others.recv().await.unwrap().name, "STOP");
    for _ in 0..2 {
        let error = events.recv().await.unwrap_err().to_string();
        assert!(error.contains("the matcher's own fault"), "{error}");
    }
    let error = both.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("see any event that meets a condition") && error.contains("own fault"),
        "{error}"
    );
    let recorded_before = recorded.load(Ordering::Relaxed);
    client.execute("echo", ()).await.unwrap();
    assert_eq!(
        recorded.load(Ordering::Relaxed),
        recorded_before,
        "it is not called again"
    );
    assert!(client.closed_cause().is_none());
}

#[tokio::test]
async fn closing_waits_for_the_answers_and_takes_nothing_more() {
    let (client, control) = connect(echo()).await;
    control.block();
    let calls: Vec<_> =
        (0..10).map(|_| tokio::spawn(client.execute("echo", ()).into_future())).collect();
    while client.outstanding() != (7, 3) {
        tokio::task::yield_now().await;
    }
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    let refused = || client.execute("echo", ()).deadline(Duration::ZERO);
    while !refused().await.unwrap_err().is_closed() {
        tokio::task::yield_now().await;
    }
    assert!(!closing.is_finished());
    control.unblock();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    closing.await.unwrap().unwrap();
    assert!(matches!(client.closed_cause(), Some(Closed::Local)));
    assert_eq!(control.requests().len(), 10);

    let (client, control) = connect(echo()).await;
    control.block();
    let call = tokio::spawn(client.execute("echo", ()).into_future());
    while client.outstanding() != (1, 0) {
        tokio::task::yield_now().await;
    }
    let hasty = client.with_deadline(Duration::from_millis(5));
    assert!(hasty.close().await.unwrap_err().is_timeout());
    assert!(call.await.unwrap().unwrap_err().is_closed());

    // The stream is closed when it returns, not some time later.
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (client, mut peer) = crate::peer::connect(ours, theirs).await;
    client.close().await.unwrap();
    assert!(peer.is_left());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_stopped_reading_holds_up_the_end_of_a_session_for_a_moment_only() {
    let (client, _theirs) = with_idle_peer(500).await;
    let large = json!({"text": "x".repeat(10_000)});
    let calls: Vec<_> = (0..9)
        .map(|_| tokio::spawn(client.execute("echo", large.clone()).into_future()))
        .collect();
    // The first is written in part.
    while client.outstanding() != (1, 8) {
        tokio::task::yield_now().await;
    }
    let started = tokio::time::Instant::now();
    let hasty = client.with_deadline(Duration::from_secs(1));
    assert!(hasty.close().await.unwrap_err().is_timeout());
    assert!(started.elapsed() < Duration::from_secs(10));
    for (at, call) in calls.into_iter().enumerate() {
        let error = call.await.unwrap().unwrap_err();
        let Error::Closed { sent, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(
            sent,
            at == 0,
            "this side tries to finish a line that was begun"
        );
    }
}

#[test]
fn a_client_outlives_its_runtime_and_says_that_its_session_has_ended() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let first = runtime();
    let (client, call) = first.block_on(async {
        let (client, control) = connect(echo()).await;
        let call = tokio::spawn(client.execute("never", ()).into_future());
        control.next_request().await.unwrap();
        (client, call)
    });
    drop(first);
    runtime().block_on(async {
        assert!(call.await.unwrap_err().is_cancelled());
        assert!(client.execute("echo", ()).await.unwrap_err().is_closed());
        assert!(matches!(client.closed().await, Closed::Local));
    });
}

#[tokio::test]
async fn a_client_that_is_dropped_inside_a_line_leaves_all_of_it() {
    for closes in [true, false] {
        let (client, mut reader) = with_idle_peer(64).await;
        let text = "x".repeat(10_000);
        let mut call = client.execute("echo", json!({"text": text})).into_future();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(&mut cx).is_pending());
        let mut first = [0; 10];
        reader.read_exact(&mut first).await.unwrap();
        let closing = closes.then(|| {
            let hasty = client.with_deadline(Duration::ZERO);
            tokio::spawn(async move { hasty.close().await })
        });
        // The call holds a client as well.
        drop((client, call));
        let mut rest = String::new();
        reader.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("}\n") && rest.len() > 10_000, "{rest:?}");
        if let Some(closing) = closing {
            // The call was abandoned: only its reply is outstanding.
            assert!(closing.await.unwrap().unwrap_err().is_timeout());
        }
    }
}

#[tokio::test]
async fn a_descriptor_goes_with_the_first_byte_and_is_closed_then() {
    use std::io::Read;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (client, mut peer) = crate::peer::connect(ours, theirs).await;
    let (mut kept, given) = std::os::unix::net::UnixStream::pair().unwrap();
    kept.set_nonblocking(true).unwrap();
    // More than the kernel takes at once.
    let large = json!({"fdname": "x".repeat(1 << 20)});
    let call = tokio::spawn(client.execute("getfd", large).fd(given).into_future());
    // Read without taking the descriptor, which ends it.
    peer.listen(1000).await;
    assert_eq!(kept.read(&mut [0]).unwrap(), 0);
    drop(peer);
    assert!(call.await.unwrap().unwrap_err().is_closed());
}

#[tokio::test]
async fn a_command_of_which_nothing_is_written_is_not_sent_when_its_client_is_dropped() {
    let first = |text| {
        format!("{{\"execute\":\"first\",\"arguments\":{{\"x\":\"{text}\"}},\"id\":\"abc0\"}}\n")
    };
    let text = "x".repeat(100 - first("").len());
    let (client, mut theirs) = with_idle_peer(100).await;
    // The first line fills the stream.
    let calls = [
        tokio::spawn(client.execute("first", json!({"x": text})).into_future()),
        tokio::spawn(client.execute("second", ()).into_future()),
    ];
    while client.outstanding() != (2, 0) {
        tokio::task::yield_now().await;
    }
    // Which ends this one at once.
    client.resume(connect(echo()).await.0);
    let mut all = String::new();
    theirs.read_to_string(&mut all).await.unwrap();
    assert_eq!(all.len(), 100, "{all}");
    for call in calls {
        assert!(call.await.unwrap().unwrap_err().is_closed());
    }
}

#[test]
fn the_report_of_an_error_names_the_causes_on_one_line() {
    let missing = qmp::ConnectError::Missing {
        path: "/no/such/socket".into(),
    };
    let error = Error::from(missing);
    assert_eq!(
        error.report().to_string(),
        "failed to connect: there is no socket /no/such/socket"
    );
    let closed = Error::Closed {
        task: "execute stop".into(),
        cause: Closed::Io(Arc::new(std::io::Error::other("the cable"))),
        sent: false,
    };
    assert_eq!(
        closed.report().to_string(),
        "failed to execute stop: the QMP session has ended: the connection broke: the cable"
    );
}

/// A pipe shows whether its other end is still open anywhere.
#[tokio::test]
async fn the_descriptors_of_commands_that_were_never_sent_are_closed_with_the_session() {
    use std::io::Read;
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let control = Monitor::new().on("getfd", |_| Answer::silence()).spawn(theirs);
    let client = Client::from_unix_stream(ours, Options::default()).await.unwrap();
    let (mut kept, calls): (Vec<_>, Vec<_>) = (0..5)
        .map(|n| {
            let (kept, given) = std::os::unix::net::UnixStream::pair().unwrap();
            let call = client.execute("getfd", json!({"fdname": format!("f{n}")}));
            let call = tokio::spawn(call.fd(given).into_future());
            (kept, call)
        })
        .unzip();
    while client.outstanding() != (1, 4) {
        tokio::task::yield_now().await;
    }
    control.close();
    for call in calls {
        assert!(call.await.unwrap().unwrap_err().is_closed());
    }
    // The client lives on; the mock drops what it was sent.
    for kept in &mut kept[1..] {
        kept.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(
            kept.read(&mut [0]).unwrap(),
            0,
            "end of file: nobody has it"
        );
    }
    assert!(client.closed_cause().is_some());
}
