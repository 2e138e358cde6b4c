//! Events: subscribers, the cache, waiting for the event of a command, throttling.

use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use qmp::mock::{Answer, Monitor};
use qmp::{Client, Event, Matcher, Options, RecvError};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::calls::{cache, connect, connect_with, echo, options};
use crate::peer::{GREETING, reply};

pub(crate) fn event(name: &str, data: Value) -> Event {
    let Value::Object(data) = data else {
        panic!("data is an object")
    };
    Event::new(name).with_data(data)
}

/// Sends numbered events and, behind them, a call, so that all have arrived when it returns.
async fn send(client: &qmp::Client, control: &qmp::mock::Control, numbers: std::ops::Range<u64>) {
    for n in numbers {
        control.event(event("N", json!({"n": n})));
    }
    control.event(Event::new("LAST"));
    cache(client).wait("LAST").await.unwrap();
}

#[tokio::test]
async fn each_subscriber_gets_what_it_asked_for_in_order() {
    let (client, control) = connect(echo()).await;
    let mut all = client.subscribe(Matcher::any());
    let mut even = client
        .subscribe(Matcher::event("N").when(|event| event.data["n"].as_u64().unwrap() % 2 == 0));
    let mut one = client.subscribe(Matcher::event("N").data(json!({"n": 7})));
    send(&client, &control, 0..10).await;
    for n in 0..10 {
        assert_eq!(all.recv().await.unwrap().data["n"], n);
    }
    assert_eq!(all.recv().await.unwrap().name, "LAST");
    for n in [0, 2, 4, 6, 8] {
        assert_eq!(even.recv().await.unwrap().data["n"], n);
    }
    assert!(even.try_recv().unwrap().is_none());
    assert_eq!(one.recv().await.unwrap().data["n"], 7);
    let mut late = client.subscribe("N");
    assert!(
        late.try_recv().unwrap().is_none(),
        "a subscription begins when it is made"
    );
}

#[tokio::test]
async fn a_slow_subscriber_loses_a_counted_number_at_a_known_place_and_hurts_nobody() {
    let (client, control) = connect_with(echo(), options().event_capacity(5)).await;
    let mut slow = client.subscribe("N");
    let mut fast = client.subscribe("N");
    for round in 0..3u64 {
        for n in 0..4 {
            send(
                &client,
                &control,
                round * 20 + n * 5..round * 20 + n * 5 + 5,
            )
            .await;
            for i in 0..5 {
                assert_eq!(fast.recv().await.unwrap().data["n"], round * 20 + n * 5 + i);
            }
        }
        for i in 0..5 {
            assert_eq!(slow.recv().await.unwrap().data["n"], round * 20 + i);
        }
        let gap = slow.recv().await.unwrap_err();
        assert!(matches!(gap, RecvError::Lagged(15)), "{gap}");
        assert_eq!(slow.dropped(), (round + 1) * 15);
    }
    assert_eq!(fast.dropped(), 0);
}

#[tokio::test]
async fn a_subscriber_has_room_for_one_event_at_least() {
    let (client, control) = connect_with(echo(), options().event_capacity(0)).await;
    let mut events = client.subscribe("N");
    send(&client, &control, 0..3).await;
    assert_eq!(events.recv().await.unwrap().data["n"], 0);
    assert!(matches!(events.recv().await, Err(RecvError::Lagged(2))));
}

#[tokio::test]
async fn a_subscriber_that_never_reads_does_not_stop_the_stream() {
    let (client, control) = connect_with(echo(), options().event_capacity(10)).await;
    let stuck = client.subscribe(Matcher::any());
    for batch in 0..20 {
        send(&client, &control, batch * 1000..batch * 1000 + 1000).await;
    }
    assert_eq!(
        client.execute("echo", json!({"n": 1})).await.unwrap(),
        json!({"n": 1})
    );
    assert_eq!(stuck.dropped(), 20 * 1001 - 10);
}

/// A monitor that always has one more event to read, and answers what is written.
struct Flood {
    to_read: Vec<u8>,
    written: Vec<u8>,
}

impl AsyncRead for Flood {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let piece = match std::mem::take(&mut self.to_read) {
            none if none.is_empty() => b"{\"event\": \"FLOOD\"}\r\n".to_vec(),
            piece => piece,
        };
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        if let Ok(command) = serde_json::from_slice::<Value>(&self.written) {
            self.written.clear();
            self.to_read.extend(reply(&command).into_bytes());
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_flood_of_events_holds_up_no_command() {
    let flood = Flood {
        to_read: GREETING.as_bytes().to_vec(),
        written: Vec::new(),
    };
    let client = Client::from_stream(flood, options()).await.unwrap();
    // Waiting for the own event drains the stream first, which has no end here.
    let (_, event) = client.execute("go", ()).and_event("FLOOD").await.unwrap();
    assert_eq!(event.name, "FLOOD");
    client.execute("go", ()).await.unwrap();
}

#[tokio::test]
async fn nothing_of_a_subscription_is_left_when_its_stream_is_dropped() {
    let (client, _control) = connect(echo()).await;
    let held = std::sync::Arc::new(());
    let matcher = || {
        let held = std::sync::Arc::clone(&held);
        Matcher::any().when(move |_| std::sync::Arc::strong_count(&held) > 0)
    };
    let stream = client.subscribe(matcher());
    let mut call = client.execute("never", ()).and_event(matcher()).into_future();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_pending());
    assert_eq!(std::sync::Arc::strong_count(&held), 3);
    drop(stream);
    assert_eq!(std::sync::Arc::strong_count(&held), 2);
    drop(call);
    // The command itself may be on its way.
    client.execute("echo", ()).await.unwrap();
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn the_cache_gives_events_by_description_and_keeps_the_others() {
    let (client, control) = connect(echo()).await;
    let kept = cache(&client);
    control.event(event("A", json!({"id": "x", "more": {"k": 1, "l": 2}})));
    control.event(event("B", json!({"id": "x"})));
    control.event(event("A", json!({"id": "y"})));
    send(&client, &control, 0..2).await;

    assert!(kept.take(Matcher::event("A").data(json!({"id": "z"}))).is_none());
    let found = kept.wait(Matcher::event("A").data(json!({"more": {"l": 2}}))).await.unwrap();
    assert_eq!(found.text("id"), Some("x"));
    let found = kept.wait(Matcher::any().data(json!({"id": "y"}))).await;
    assert_eq!(found.unwrap().name, "A");
    // A condition that panics takes nothing.
    let faulty = Matcher::any().when(|event| event.name != "N" || panic!("its own fault"));
    let faulty = std::panic::AssertUnwindSafe(|| kept.take_all(faulty));
    assert!(std::panic::catch_unwind(faulty).is_err());
    assert_eq!(kept.take_all("N").len(), 2);
    let rest = kept.take_all(Matcher::any());
    assert_eq!((rest.len(), rest[0].name.as_str()), (1, "B"));
}

#[tokio::test]
async fn no_event_is_kept_unless_asked_for() {
    let (client, control) = connect_with(echo(), Options::default()).await;
    control.event(Event::new("STOP"));
    assert!(client.event_cache().is_none());
    let (client, control) = connect_with(echo(), Options::default().cache_events(0)).await;
    control.event(Event::new("A"));
    control.event(Event::new("B"));
    assert_eq!(cache(&client).wait("B").await.unwrap().name, "B");
    assert_eq!(cache(&client).dropped(), 1);
}

#[tokio::test]
async fn a_wait_sees_events_that_come_later_and_can_be_dropped_without_loss() {
    let (client, control) = connect(echo()).await;
    let kept = cache(&client).with_deadline(Duration::from_millis(10));
    let error = kept.wait(Matcher::event("A").data(json!({"n": 1}))).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to see A with {\"n\":1} within 10ms"
    );
    let waiting = tokio::spawn({
        let kept = cache(&client);
        async move { kept.wait("A").await.unwrap().data["n"].clone() }
    });
    tokio::task::yield_now().await;
    control.event(event("B", json!({"n": 1})));
    control.event(event("A", json!({"n": 2})));
    assert_eq!(waiting.await.unwrap(), 2);
    assert!(cache(&client).take("B").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_an_event_that_is_kept_has_the_deadline_of_its_client() {
    let (client, _control) = connect(echo()).await;
    let hasty = client.with_deadline(Duration::from_secs(5));
    let error = cache(&hasty).wait("NEVER").await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

#[tokio::test]
async fn a_full_cache_loses_its_oldest_events_and_counts_them() {
    let (client, control) = connect_with(echo(), options().cache_events(10)).await;
    send(&client, &control, 0..25).await;
    let kept = cache(&client);
    assert_eq!(kept.dropped(), 16);
    assert_eq!(kept.take("N").unwrap().data["n"], 16);
}

#[tokio::test]
async fn a_failed_command_does_not_wait_for_its_event() {
    let (client, _control) = connect(Monitor::new().on("go", |_| Answer::error("no"))).await;
    let error = client.execute("go", ()).and_event("DONE").await.unwrap_err();
    assert_eq!(error.desc(), Some("no"));
}

#[tokio::test]
async fn timestamps_may_be_negative_and_data_absent() {
    let (client, control) = connect(echo()).await;
    control.raw(
        "{\"event\": \"A\", \"timestamp\": {\"seconds\": -1, \"microseconds\": -1}, \"new\": []}\r\n",
    );
    let event = cache(&client).wait("A").await.unwrap();
    assert_eq!(
        (event.timestamp.seconds, event.timestamp.microseconds),
        (-1, -1)
    );
    assert!(event.data.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_throttled_event_comes_once_per_period_and_the_last_one_wins() {
    let monitor = echo().throttle("RTC_CHANGE", Duration::from_secs(1));
    let (client, control) = connect(monitor).await;
    for n in 0..5 {
        control.event(event("RTC_CHANGE", json!({"offset": n})));
    }
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(cache(&client).wait("RTC_CHANGE").await.unwrap().data["offset"].clone());
    }
    assert_eq!(seen, [0, 4]);
    assert!(cache(&client).take("RTC_CHANGE").is_none());
}

#[tokio::test]
async fn a_period_beyond_all_time_lets_one_event_through() {
    let monitor = echo().throttle("RTC_CHANGE", Duration::MAX);
    let (client, control) = connect(monitor).await;
    for n in 0..2 {
        control.event(event("RTC_CHANGE", json!({"offset": n})));
    }
    control.event(event("LAST", json!({})));
    cache(&client).wait("LAST").await.unwrap();
    assert_eq!(cache(&client).take("RTC_CHANGE").unwrap().data["offset"], 0);
    assert!(cache(&client).take("RTC_CHANGE").is_none());
}
