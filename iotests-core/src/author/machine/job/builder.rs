//! Starts jobs.

use std::panic::Location;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::handle::Job;
use super::number::Number;
use crate::author::action::Action;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Failure};
use crate::author::image::Image;
use crate::author::machine::disk::Disks;
use crate::author::machine::{Cmd, Machine, Monitor, Target};

/// A job to start.
#[must_use = "a job is started by start()"]
pub struct JobBuilder {
    monitor: Monitor,
    command: String,
    id: String,
    /// The number in its id, reserved for it.
    number: Option<Number>,
    arguments: CaseResult<Map<String, Value>>,
    disks: Arc<Disks>,
    /// Arguments whose value is the node of this disk at the time when the job starts.
    on_disks: Vec<(&'static str, String)>,
    place: &'static Location<'static>,
}

impl Machine {
    /// Any job, by the command that starts it.
    #[track_caller]
    pub fn job(&self, command: &str, arguments: Value) -> JobBuilder {
        let arguments = match arguments {
            Value::Object(arguments) => Ok(arguments),
            Value::Null => Ok(Map::new()),
            other => Err(Failure::new(format!(
                "the arguments of {command} must be an object, and are {other}"
            ))),
        };
        JobBuilder {
            monitor: self.monitor.clone(),
            command: command.to_owned(),
            id: format!("job{}", self.monitor.shared.next_number()),
            disks: self.disks.clone(),
            on_disks: Vec::new(),
            number: None,
            arguments,
            place: Location::caller(),
        }
    }

    /// Commits this node, or the one set by [`JobBuilder::top`], into the layers below.
    #[track_caller]
    pub fn commit(&self, node: impl Into<Target>) -> JobBuilder {
        self.job("block-commit", Value::Null).of(node.into())
    }

    /// Copies the data of this node's backing layers into it.
    #[track_caller]
    pub fn stream(&self, node: impl Into<Target>) -> JobBuilder {
        self.job("block-stream", Value::Null).of(node.into())
    }

    /// Mirrors a node [to](JobBuilder::to) another one, completely unless set by
    /// [`JobBuilder::sync`].
    #[track_caller]
    pub fn mirror(&self, node: impl Into<Target>) -> JobBuilder {
        self.job("blockdev-mirror", Value::Null).of(node.into()).sync("full")
    }

    /// Mirrors a node into the file of an image (`drive-mirror`), using a node with the image's
    /// name; completely unless set by [`JobBuilder::sync`].
    #[track_caller]
    pub fn drive_mirror(&self, node: impl Into<Target>, copy: &Image) -> JobBuilder {
        let arguments = json!({
            "target": copy, "node-name": copy.name(), "format": copy.format().name(),
        });
        self.job("drive-mirror", arguments).of(node.into()).sync("full")
    }

    /// Backs up a node [to](JobBuilder::to) another one, completely unless set by
    /// [`JobBuilder::sync`].
    #[track_caller]
    pub fn backup(&self, node: impl Into<Target>) -> JobBuilder {
        self.job("blockdev-backup", Value::Null).of(node.into()).sync("full")
    }

    /// Creates an image with `blockdev-create`: starts the job, runs it to its end and dismisses
    /// it. Its id is `job0`, or the next free number, unless set by [`Run::id`](super::Run::id).
    #[track_caller]
    pub fn blockdev_create<'a>(&self, options: impl Serialize) -> super::Run<'a> {
        let mut job = self.job("blockdev-create", Value::Null);
        match serde_json::to_value(options) {
            Ok(options) => job = job.set("options", options),
            Err(error) => job.arguments = Err(error.into()),
        }
        // This job has no device from which to derive its id.
        job.number = Some(self.numbers.take());
        job.id = format!("job{}", job.number.as_ref().map_or(0, Number::get));
        job.run()
    }
}

impl JobBuilder {
    /// Sets any argument of the command, as in the QMP reference.
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Ok(arguments) = &mut self.arguments {
            arguments.insert(name.to_owned(), value.into());
        }
        self
    }

    fn of(self, node: Target) -> Self {
        self.node("device", node)
    }

    fn node(mut self, name: &'static str, target: Target) -> Self {
        match target {
            Target::Node(node) => self.set(name, node),
            Target::Disk(disk) => {
                self.on_disks.push((name, disk));
                self
            }
        }
    }

    /// Resolves the disks that it names to their nodes.
    pub(crate) async fn resolved(mut self) -> CaseResult<Self> {
        for (name, disk) in std::mem::take(&mut self.on_disks) {
            let node = self.disks.node_of(&self.monitor, &disk).await?;
            self = self.set(name, node);
        }
        Ok(self)
    }

    /// Copies to this node.
    pub fn to(self, target: impl Into<Target>) -> Self {
        self.node("target", target.into())
    }

    /// Sets its id; by default one is generated.
    pub fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    /// Sets the topmost node to commit.
    pub fn top(self, node: impl Into<Target>) -> Self {
        self.node("top-node", node.into())
    }

    /// Sets the node to commit into, or at which streaming stops.
    pub fn base(self, node: impl Into<Target>) -> Self {
        self.node("base-node", node.into())
    }

    /// Sets which part is copied: `full`, `top`, `none`, `incremental`, `bitmap`.
    pub fn sync(self, mode: &str) -> Self {
        self.set("sync", mode)
    }

    /// Limits it to this many bytes per second. A small number keeps a job from finishing.
    pub fn speed(self, bytes: u64) -> Self {
        self.set("speed", bytes)
    }

    /// Makes the job wait to be finalized and dismissed: by [`Job::run`], or by [`Job::finalize`]
    /// and [`Job::dismiss`].
    pub fn manual(self) -> Self {
        self.set("auto-finalize", false).set("auto-dismiss", false)
    }

    fn is_auto(&self, name: &str) -> bool {
        // These jobs stay until dismissed, and their commands lack the arguments.
        let stays = ["blockdev-create", "x-blockdev-amend"].contains(&self.command.as_str());
        let stays = stays && name == "auto-dismiss";
        let given = self.arguments.as_ref().ok().and_then(|a| a.get(name)).and_then(Value::as_bool);
        given.unwrap_or(!stays)
    }

    /// Starts it.
    pub fn start(self) -> Action<'static, Job> {
        let what = format!("{} to start", self.command);
        Action::at(self.place, what, async move {
            let (name, job) = (self.command.clone(), self.begin().await?);
            job.map_err(|error| Failure::from(error).context(name))
        })
    }

    /// Starts it, and runs it to its dismissal.
    pub fn run<'a>(self) -> super::Run<'a> {
        super::Run::starting(self)
    }

    /// Starts it; the command must fail with this text and the class `GenericError`.
    pub fn expect_error(self, text: impl Into<ErrorText>) -> Action<'static, ()> {
        self.expect_error_class("GenericError", text)
    }

    /// Starts it; the command must fail with this text and this class.
    pub fn expect_error_class(
        self,
        class: &str,
        text: impl Into<ErrorText>,
    ) -> Action<'static, ()> {
        let (class, text) = (class.to_owned(), text.into());
        let what = format!("{} to be refused", self.command);
        Action::at(self.place, what, async move {
            let command = self.resolved().await?.into_cmd();
            command.expect_error_class(&class, text).await
        })
    }

    /// The command that starts it, for callers that expect an error.
    pub(crate) fn into_cmd(self) -> Cmd {
        let id = self.id;
        let arguments = self.arguments.map(|arguments| with_id(arguments, &id).into());
        Cmd::at(self.place, &self.monitor, &self.command, arguments)
    }

    /// Starts it, and returns the job, or the error if the command fails.
    pub(super) async fn begin(self) -> CaseResult<Result<Job, qmp::CommandError>> {
        let monitor = self.monitor.clone();
        let (command, arguments, job) = self.resolved().await?.follow()?;
        match monitor.cmd(&command, arguments).outcome().await? {
            Ok(_) => Ok(Ok(job)),
            Err(error) => {
                job.leave();
                Ok(Err(error))
            }
        }
    }

    /// The command, its arguments, and its job, which is followed from now on, because a job's
    /// first events arrive before the reply.
    pub(super) fn follow(self) -> CaseResult<(String, Map<String, Value>, Job)> {
        let automatic = (self.is_auto("auto-finalize"), self.is_auto("auto-dismiss"));
        let arguments = with_id(self.arguments?, &self.id);
        let job = Job::follow(&self.monitor, self.id, automatic, self.place);
        Ok((self.command, arguments, job))
    }

    pub(super) fn take_number(&mut self) -> Option<Number> {
        self.number.take()
    }

    pub(crate) fn place(&self) -> &'static Location<'static> {
        self.place
    }
}

fn with_id(mut arguments: Map<String, Value>, id: &str) -> Map<String, Value> {
    arguments.insert("job-id".to_owned(), id.into());
    arguments
}
