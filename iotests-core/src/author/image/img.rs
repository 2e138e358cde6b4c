//! qemu-img on the images of a case: every subcommand as a typed call.

use std::future::IntoFuture;
use std::panic::Location;
use std::path::Path;

use imgtools::image::{FileName, ImageSpec, Options};
use imgtools::img::{
    Amend, Bitmap, Call, Check, CheckVerdict, Commit, Compare, Comparison, Convert, Dd, Difference,
    Info, Map, Measure, Operation, QemuImg, Rebase, Resize, Size, Snapshot,
};
use imgtools::process::Output;
use imgtools::qcow2;
use serde_json::Value;

use super::handle::Image;
use crate::author::action::Action;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Failure};
use crate::author::filter::{Filter, Hidden};
use crate::author::log::Entry;
use crate::author::serve::Served;
use crate::author::shared::Shared;
use crate::author::tool::{ToolCall, expect_error, json};
use crate::case::{Format, ToolKind};

/// A call of qemu-img. Awaiting it runs it, requires success, and returns its result; the methods
/// change what is required.
#[must_use = "qemu-img runs when the call is awaited"]
pub struct ImgCall<Op> {
    call: CaseResult<Call<Op>>,
    what: String,
    place: &'static Location<'static>,
}

impl<Op: Operation + 'static> ImgCall<Op> {
    /// Sets options of the subcommand: `image.resize(MIB).with(|call| call.shrink())`.
    pub fn with(mut self, options: impl FnOnce(Call<Op>) -> Call<Op>) -> Self {
        self.call = self.call.map(options);
        self
    }

    /// Runs it; it must fail and print this text.
    pub fn expect_error(self, text: impl Into<ErrorText>) -> Action<'static, Output> {
        let text = text.into();
        let what = self.what.clone();
        self.run(async move |call| expect_error(&what, call.output().await?, &text))
    }

    /// Runs it and accepts any exit status. Death by a signal is still a failure.
    pub fn any_status(self) -> Action<'static, Output> {
        self.run(async |call| Ok(call.output().await?))
    }

    /// Runs it and returns its JSON unchanged, for assertions with a path.
    pub fn json(self) -> Action<'static, Value> {
        self.run(async |call| json(call.output().await?))
    }

    fn run<T: 'static>(
        self,
        run: impl AsyncFnOnce(Call<Op>) -> CaseResult<T> + 'static,
    ) -> Action<'static, T> {
        Action::at(self.place, self.what, async move { run(self.call?).await })
    }
}

impl<Op: Operation + 'static> IntoFuture for ImgCall<Op> {
    type Output = CaseResult<Op::Answer>;
    type IntoFuture = Action<'static, Op::Answer>;

    fn into_future(self) -> Self::IntoFuture {
        self.run(async |call| Ok(call.run().await?))
    }
}

impl Shared {
    #[track_caller]
    pub(crate) fn img(&self) -> CaseResult<QemuImg> {
        Ok(QemuImg::new(self.tool(ToolKind::Img)?))
    }
}

impl Image {
    #[track_caller]
    fn img<Op: Operation>(
        &self,
        make: impl FnOnce(QemuImg, ImageSpec) -> CaseResult<Call<Op>>,
    ) -> ImgCall<Op> {
        let image = || Ok((self.0.shared.img()?, self.spec()?));
        ImgCall {
            call: image().and_then(|(img, spec)| make(img, spec)),
            what: format!("qemu-img {} of {self}", Op::NAME),
            place: Location::caller(),
        }
    }

    /// What `qemu-img info` reports about it.
    #[track_caller]
    pub fn info(&self) -> ImgCall<Info> {
        self.img(|img, image| Ok(img.info(image)))
    }

    /// The text of `qemu-img info` for the log, with the filters for that text.
    #[track_caller]
    pub fn info_text(&self) -> Action<'_, Entry> {
        let text = self.named(ToolCall::new(&self.0.shared, ToolKind::Img).arg("info"));
        Action::new(format!("the information on {self}"), async move {
            let text = text.text().await?.trim_end().to_owned();
            Ok(Entry::from(text).filter(self.info_filter()))
        })
    }

    fn info_filter(&self) -> Filter {
        Filter::ImgInfo {
            // The log has already hidden the directory at that point.
            image: Hidden::new(&self.to_string(), "TEST_IMG"),
            directories: self.0.shared.directories.hidden().to_vec(),
            format: self.0.format.to_string(),
            child_nodes: false,
        }
    }

    /// The map of its extents.
    #[track_caller]
    pub fn map(&self) -> ImgCall<Map> {
        self.img(|img, image| Ok(img.map(image)))
    }

    /// The map of this layer alone: extents from its backing image are not `present`.
    #[track_caller]
    pub fn own_map(&self) -> ImgCall<Map> {
        self.img(|img, _| Ok(img.map(self.own_spec()?)))
    }

    /// The size of a file that would hold its content.
    #[track_caller]
    pub fn measure(&self) -> ImgCall<Measure> {
        self.img(|img, image| Ok(img.measure(image)))
    }

    /// Checks it for errors, and accepts any result.
    #[track_caller]
    pub fn check(&self) -> ImgCall<Check> {
        self.img(|img, image| Ok(img.check(image)))
    }

    /// Asserts that it has neither corruption nor leaks. Formats without a check pass.
    #[track_caller]
    pub fn assert_clean(&self) -> Action<'_, ()> {
        let check = self.check();
        Action::new(format!("a check of {self}"), async move {
            if self.format() == Format::Raw {
                return Ok(());
            }
            // Checks plain qcow2 without a process, by independent code.
            let problem = match self.problems() {
                Ok(Some(problems)) => match problems.into_iter().next() {
                    None => return Ok(()),
                    problem => problem,
                },
                // If it cannot be read, qemu-img reports that in its own words.
                Ok(None) | Err(_) => None,
            };
            let found = check.await?;
            match (found.verdict, problem) {
                (CheckVerdict::Clean | CheckVerdict::Unsupported, None) => Ok(()),
                (CheckVerdict::Clean, Some(problem)) => Err(Failure::new(format!(
                    "{self} is not clean, though qemu-img says so: {problem}"
                ))),
                _ => Err(Failure::new(format!("{self} is not clean: {found}"))),
            }
        })
    }

    fn problems(&self) -> Result<Option<Vec<qcow2::Problem>>, qcow2::Qcow2Error> {
        match self.qcow2_file() {
            Some(path) => qcow2::Image::open(path)?.problems(),
            None => Ok(None),
        }
    }

    /// Changes its virtual size. Losing data at the end requires `.with(|call| call.shrink())`.
    #[track_caller]
    pub fn resize(&self, size: u64) -> ImgCall<Resize> {
        self.img(|img, image| Ok(img.resize(image, Size::To(size))))
    }

    /// Shrinks it; data beyond the new end is lost.
    #[track_caller]
    pub fn shrink(&self, size: u64) -> ImgCall<Resize> {
        self.resize(size).with(Call::<Resize>::shrink)
    }

    /// Changes options of its format, such as `compat=1.1`.
    #[track_caller]
    pub fn amend(&self, options: impl Into<Options>) -> ImgCall<Amend> {
        self.img(|img, image| Ok(img.amend(image, options)))
    }

    /// Changes its backing image, without changing its content as read.
    #[track_caller]
    pub fn rebase(&self, backing: &Image) -> ImgCall<Rebase> {
        self.img(|img, image| {
            let call = img.rebase(image, backing.file_name());
            Ok(call.backing_format(backing.format().name()))
        })
    }

    /// Copies the data from its backing image into it, and removes the backing image from its
    /// header.
    #[track_caller]
    pub fn rebase_to_nothing(&self) -> ImgCall<Rebase> {
        self.img(|img, image| Ok(img.rebase(image, "")))
    }

    /// Commits its data into its backing image.
    #[track_caller]
    pub fn commit(&self) -> ImgCall<Commit> {
        self.img(|img, image| Ok(img.commit(image)))
    }

    /// Copies its content into an image that is only [reserved](super::ImageBuilder::reserve) so
    /// far, in the target's format. An encrypted target must already exist, and is opened with its
    /// key: `.with(|call| call.no_create())`.
    #[track_caller]
    pub fn convert(&self, target: &Image) -> ImgCall<Convert> {
        self.img(|img, image| Ok(img.convert(image, target.spec()?)))
    }

    /// Copies blocks of it into an image that is only reserved so far.
    #[track_caller]
    pub fn dd(&self, target: &Image) -> ImgCall<Dd> {
        self.img(|img, image| {
            let call = img.dd(image, target.file_name());
            Ok(call.output_format(target.format().name()))
        })
    }

    /// Changes a persistent bitmap: `image.bitmap("b0").with(|call| call.action(BitmapAction::Add))`.
    #[track_caller]
    pub fn bitmap(&self, name: &str) -> ImgCall<Bitmap> {
        self.img(|img, image| Ok(img.bitmap(image, name)))
    }

    /// Creates an internal snapshot.
    #[track_caller]
    pub fn snapshot(&self, name: &str) -> ImgCall<Snapshot> {
        self.img(|img, image| Ok(img.snapshot_create(image, name)))
    }

    /// Reverts to an internal snapshot.
    #[track_caller]
    pub fn go_back_to(&self, name: &str) -> ImgCall<Snapshot> {
        self.img(|img, image| Ok(img.snapshot_apply(image, name)))
    }

    /// Deletes an internal snapshot.
    #[track_caller]
    pub fn delete_snapshot(&self, name: &str) -> ImgCall<Snapshot> {
        self.img(|img, image| Ok(img.snapshot_delete(image, name)))
    }

    /// Compares the data of both. Sizes may differ if the rest is zeroes.
    #[track_caller]
    pub fn compare(&self, other: &Image) -> ImgCall<Compare> {
        self.img(|img, image| Ok(img.compare(image, other.spec()?)))
    }

    /// Asserts that both contain the same data.
    #[track_caller]
    pub fn assert_same_as<'a>(&'a self, other: &'a Image) -> Action<'a, ()> {
        let compare = self.compare(other);
        Action::new(format!("a comparison of {self} and {other}"), async move {
            let from = match compare.await? {
                Comparison::Same { .. } => return Ok(()),
                Comparison::Differ(Difference::Content { offset }) => offset,
                // The comparison is not strict.
                Comparison::Differ(_) => 0,
            };
            Err(Failure::new(format!(
                "{self} and {other} differ from byte {from:#x} on, expected the same content"
            )))
        })
    }

    /// How qemu-img and qemu-io open it: by file and format, or by options that include its key.
    pub(crate) fn spec(&self) -> CaseResult<ImageSpec> {
        if self.says_format() {
            return Ok(ImageSpec::file(self.filename()));
        }
        let spec = match self.is_encrypted() {
            false => ImageSpec::file(self.file_name()).format(self.format().name()),
            true => ImageSpec::options(self.image_opts()),
        };
        self.with_key(spec)
    }

    /// The same, without its backing chain.
    pub(super) fn own_spec(&self) -> CaseResult<ImageSpec> {
        self.with_key(ImageSpec::file(self.json_name()))
    }

    fn with_key(&self, spec: ImageSpec) -> CaseResult<ImageSpec> {
        match self.is_encrypted() {
            false => Ok(spec),
            true => Ok(spec.secret(&self.0.shared.key()?)),
        }
    }

    /// A file is passed as a path, whatever its name.
    pub(super) fn file_name(&self) -> FileName {
        match &self.0.served {
            Served::File | Served::Fuse(_) => Path::new(self.filename()).into(),
            _ => self.filename().into(),
        }
    }
}
