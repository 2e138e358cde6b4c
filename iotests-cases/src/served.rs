//! Files behind an NBD server of our own, which keeps requests back until the case lets them go: what a
//! job meets on its way is there for certain, without a race.

use std::fs::File;
use std::ops::Range;

use iotests_core::author::TestFile;
use iotests_core::prelude::*;
use nbd::proto::CommandType;
use nbd::server::backend::FileBackend;
use nbd::server::plan::Range as Place;
use nbd::server::{Action as Fault, Event, Export, FaultPlan, On, Rule, Server};

use crate::json::items;

/// The switch of all rules here, unless each has its own.
const GO: &str = "go";

/// The file of an image, served by one of our servers.
pub(crate) struct Served {
    server: Server,
    socket: TestFile,
}

impl Served {
    /// Keeps back the answer to the first write into this range of the file.
    pub(crate) fn holding(t: &Test, image: &Image, range: Range<u64>) -> CaseResult<Served> {
        Served::with(t, image, FaultPlan::new().rule(held(&range, GO)))
    }

    /// Keeps back the answer to the first write to this cluster of a qcow2 image, in which it has data, so that it is
    /// written to where it is; also returns its place in the file. The file gets room: that of a server does not
    /// grow.
    pub(crate) async fn holding_cluster(
        t: &Test,
        image: &Image,
        guest: u64,
    ) -> CaseResult<(Served, Range<u64>)> {
        let map = image.own_map().json().await?;
        let entries = items(&map, "")?.iter().filter(|entry| entry["data"] == true);
        let mut places = entries.filter_map(|entry| {
            let [start, length, offset] =
                ["start", "length", "offset"].map(|name| entry[name].as_u64());
            let inside = guest.checked_sub(start?)?;
            (inside < length?).then_some(offset? + inside)
        });
        let start =
            places.next().ok_or_else(|| Failure::new("there is no data in this cluster"))?;
        let file = File::options().write(true).open(image.filename())?;
        file.set_len(file.metadata()?.len() + 8 * MIB)?;
        let place = start..start + CLUSTER;
        Ok((Served::holding(t, image, place.clone())?, place))
    }

    /// As [`Served::holding`] for several ranges, each of which is [let go](Served::release_one) by itself.
    pub(crate) fn holding_each(
        t: &Test,
        image: &Image,
        ranges: &[Range<u64>],
    ) -> CaseResult<Served> {
        let rules = ranges.iter().map(|range| held(range, &switch(range)));
        Served::with(t, image, rules.fold(FaultPlan::new(), FaultPlan::rule))
    }

    /// Drops the client in its first write, and keeps it waiting when it comes again.
    pub(crate) fn lost(t: &Test, image: &Image) -> CaseResult<Served> {
        let dropped = Rule::new(On::request(CommandType::WRITE), Fault::CLOSE).connection(1);
        let waits = Rule::new(On::Greeting, Fault::Hold(GO.to_owned())).connection(2);
        Served::with(t, image, FaultPlan::new().rule(dropped).rule(waits))
    }

    fn with(t: &Test, image: &Image, plan: FaultPlan) -> CaseResult<Served> {
        let socket = t.socket("nbd")?;
        let file = FileBackend::open(image.filename(), false)?;
        let server = Server::builder().export(Export::new(file)).plan(plan);
        let server = server.listen_unix(&*socket)?;
        Ok(Served { server, socket })
    }

    /// Its client.
    pub(crate) fn node(&self) -> Node {
        Node::new("nbd").set("server", json!({"type": "unix", "path": self.socket}))
    }

    /// Waits until a write to exactly this range has arrived.
    pub(crate) async fn wait_write(&self, range: Range<u64>) -> CaseResult {
        let is = |event: &Event| {
            matches!(
                event,
                Event::Request { command, offset, len, .. }
                    if *command == CommandType::WRITE
                        && *offset == range.start
                        && *len == range.end - range.start
            )
        };
        let journal = self.server.journal();
        journal.wait_for(1, |entry| is(&entry.event)).await?;
        Ok(())
    }

    /// Waits until its client has come once more.
    pub(crate) async fn wait_return(&self) -> CaseResult {
        let journal = self.server.journal();
        let again = |event: &Event| matches!(event, Event::Accepted);
        journal.wait_for(2, |entry| again(&entry.event)).await?;
        Ok(())
    }

    /// Lets go what is kept back.
    pub(crate) fn release(&self) {
        self.server.trigger(GO).set();
    }

    /// Lets go what is kept back of one of several ranges.
    pub(crate) fn release_one(&self, range: &Range<u64>) {
        self.server.trigger(&switch(range)).set();
    }

    /// Ends the server. That something was kept back is made sure here.
    pub(crate) async fn finish(self) -> CaseResult {
        self.server.finish().await?;
        Ok(())
    }
}

/// The switch of a range that has its own.
fn switch(range: &Range<u64>) -> String {
    format!("{GO} {range:?}")
}

/// Keeps back the answer to the first write there.
fn held(range: &Range<u64>, switch: &str) -> Rule {
    let to = On::Reply {
        command: Some(CommandType::WRITE),
        touching: Some(Place {
            start: range.start,
            end: range.end,
        }),
        chunk: None,
    };
    Rule::new(to, Fault::HoldReply(switch.to_owned()))
}
