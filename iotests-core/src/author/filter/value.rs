//! Filters as values, which can be shown, compared and chained.

use std::borrow::Cow;

use serde_json::Value;

use super::{Hidden, json, text};

/// Something to hide in text and JSON. See [`text`] and [`json`] for the reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Carriage returns: [`text::carriage_returns`].
    CarriageReturns,
    /// The test and socket directories: [`text::test_files`].
    TestFiles(Vec<Hidden>),
    /// qemu-io's times and rates: [`text::qemu_io`].
    QemuIo,
    /// User and group ids in `chown`: [`text::chown`].
    Chown,
    /// The timestamps of events: [`json::event_times`], [`text::event_times`].
    EventTimes,
    /// Node names that QEMU generates: [`text::generated_node_ids`].
    GeneratedNodeIds,
    /// The bus of virtio-scsi: [`text::virtio_scsi`].
    VirtioScsi,
    /// Block sizes of NBD exports: [`text::nbd_exports`].
    NbdExports,
    /// The lines of the qtest channel: [`text::qtest`].
    Qtest,
    /// UUIDs: [`text::uuids`].
    Uuids,
    /// Ports: [`text::ports`], [`json::ports`].
    Ports,
    /// This process id: [`text::pid`].
    Pid(u32),
    /// The name of the image format: [`text::image_format`].
    ImageFormat(String),
    /// `qemu-img info`: [`text::img_info`]. JSON strings are treated as lines of that output.
    ImgInfo {
        /// The image that is shown as `TEST_IMG`.
        image: Hidden,
        /// The directories of other test files.
        directories: Vec<Hidden>,
        /// The format that is shown as `IMGFMT`.
        format: String,
        /// Whether the sections about child nodes stay.
        child_nodes: bool,
    },
    /// All of these, in order.
    All(Vec<Filter>),
}

impl Filter {
    /// Hides what always differs between two runs: carriage returns, paths, times and generated
    /// node names.
    #[must_use]
    pub fn unsteady(directories: &[Hidden]) -> Self {
        Filter::All(vec![
            Filter::CarriageReturns,
            Filter::TestFiles(directories.to_vec()),
            Filter::EventTimes,
            Filter::QemuIo,
            Filter::GeneratedNodeIds,
        ])
    }

    /// Applies this filter, then another one.
    #[must_use]
    pub fn then(self, next: Filter) -> Self {
        match self {
            Filter::All(mut filters) => {
                filters.push(next);
                Filter::All(filters)
            }
            first => Filter::All(vec![first, next]),
        }
    }

    /// Applies this filter to text.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self {
            Filter::CarriageReturns => text::carriage_returns(text),
            Filter::TestFiles(directories) => text::test_files(text, directories),
            Filter::QemuIo => text::qemu_io(text),
            Filter::Chown => text::chown(text),
            Filter::EventTimes => text::event_times(text),
            Filter::GeneratedNodeIds => text::generated_node_ids(text),
            Filter::VirtioScsi => text::virtio_scsi(text),
            Filter::NbdExports => text::nbd_exports(text),
            Filter::Qtest => text::qtest(text),
            Filter::Uuids => text::uuids(text),
            Filter::Ports => text::ports(text),
            Filter::Pid(pid) => text::pid(text, *pid),
            Filter::ImageFormat(format) => text::image_format(text, format),
            Filter::ImgInfo {
                image,
                directories,
                format,
                child_nodes,
            } => Cow::Owned(text::img_info(
                text,
                image,
                directories,
                format,
                *child_nodes,
            )),
            Filter::All(filters) => filters.iter().fold(Cow::Borrowed(text), |text, filter| {
                text::chain(text, |t| filter.text(t))
            }),
        }
    }

    /// Applies this filter to a JSON value.
    #[must_use]
    pub fn json(&self, value: Value) -> Value {
        match self {
            Filter::EventTimes => json::strings(json::event_times(value), &text::event_times),
            Filter::Ports => json::strings(json::ports(value), &text::ports),
            Filter::All(filters) => filters.iter().fold(value, |value, filter| filter.json(value)),
            filter => json::strings(value, &|text| filter.text(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn filters_are_applied_in_the_order_in_which_they_were_chained() {
        let hidden = Hidden::new("/run/raw", "TEST_DIR");
        let paths_first =
            Filter::TestFiles(vec![hidden.clone()]).then(Filter::ImageFormat("raw".into()));
        let format_first = Filter::ImageFormat("raw".into()).then(Filter::TestFiles(vec![hidden]));
        assert_eq!(paths_first.text("raw /run/raw/x"), "IMGFMT TEST_DIR/x");
        assert_eq!(format_first.text("raw /run/raw/x"), "IMGFMT /run/IMGFMT/x");
    }

    #[test]
    fn the_same_filter_serves_text_and_json() {
        let filter = Filter::unsteady(&[Hidden::new("/w", "TEST_DIR")]);
        assert_eq!(filter.text("/w/a #block1\r\n"), "TEST_DIR/a NODE_NAME\n");
        let event = json!({"event": "E", "data": {"file": "/w/a"}, "timestamp": {"seconds": 3}});
        assert_eq!(
            filter.json(event),
            json!({"event": "E", "data": {"file": "TEST_DIR/a"}, "timestamp": {"seconds": "SECS"}})
        );
    }
}
