//! What tools say of an image, and its size.

use serde_json::{Value, json};

use super::handle::Image;
use crate::author::action::Action;
use crate::author::failure::Failure;
use crate::author::filter::{Filter, Hidden};
use crate::author::log::Entry;
use crate::author::tool::ToolCall;
use crate::case::Format;

impl Image {
    /// What `qemu-img info` says of it, as JSON.
    #[track_caller]
    pub fn info(&self) -> Action<'static, Value> {
        self.named(self.img(&["info", "--output=json"]), "-f")
            .json()
    }

    /// What `qemu-img info` says of it, for the log: with the filters for that text.
    #[track_caller]
    pub fn info_text(&self) -> Action<'_, Entry> {
        let text = self.named(self.img(&["info"]), "-f").text();
        Action::new(format!("the information on {self}"), async move {
            let text = text.await?.trim_end().to_owned();
            Ok(Entry::from(text).filter(self.info_filter()))
        })
    }

    fn info_filter(&self) -> Filter {
        Filter::ImgInfo {
            // The log has hidden the directory by then.
            image: Hidden::new(&self.to_string(), "TEST_IMG"),
            directories: self.0.shared.directories.hidden().to_vec(),
            format: self.0.format.to_string(),
            child_nodes: false,
        }
    }

    /// Its virtual size now.
    #[track_caller]
    pub fn size(&self) -> Action<'static, u64> {
        let info = self.info();
        Action::new("the size of an image", async move {
            let info = info.await?;
            info["virtual-size"]
                .as_u64()
                .ok_or_else(|| Failure::new(format!("no virtual size in {info}")))
        })
    }

    /// Its allocation, as `qemu-img map` tells it.
    #[track_caller]
    pub fn map(&self) -> Action<'static, Value> {
        self.named(self.img(&["map", "--output=json"]), "-f").json()
    }

    /// The allocation of this layer alone, as `qemu-img map` tells it: what it takes from its backing
    /// image is not `present`.
    #[track_caller]
    pub fn own_map(&self) -> Action<'static, Value> {
        self.with_key(self.img(&["map", "--output=json"]))
            .arg(self.json_name(json!({"backing": null})))
            .json()
    }

    /// What `qemu-img check` finds, as JSON: `corruptions`, `leaks`, `check-errors` where there are
    /// any.
    #[track_caller]
    pub fn check(&self) -> Action<'static, Value> {
        self.named(self.img(&["check", "--output=json"]), "-f")
            .json()
    }

    /// `qemu-img check` finds neither corruption nor leaks. Formats without a check pass.
    #[track_caller]
    pub fn assert_clean(&self) -> Action<'_, ()> {
        let call = self.named(self.img(&["check", "--output=json"]), "-f");
        Action::new(format!("a check of {self}"), async move {
            /// "This image format does not support checks", says qemu-img with it.
            const NO_CHECK: i32 = 63;
            if self.format() == Format::Raw {
                return Ok(());
            }
            let output = call.any_status().await?;
            match output.status.code() {
                Some(0 | NO_CHECK) => Ok(()),
                _ => Err(Failure::new(format!(
                    "{self} is not clean: {}",
                    output.combined_text()
                ))),
            }
        })
    }

    /// Changes its virtual size. Making it smaller must be meant, so that is [`Image::shrink`].
    #[track_caller]
    pub fn resize(&self, size: u64) -> Action<'static, ()> {
        done(
            self.named(self.img(&["resize", "-q"]), "-f")
                .arg(size.to_string()),
        )
    }

    /// Makes it smaller; what is behind the new end is gone.
    #[track_caller]
    pub fn shrink(&self, size: u64) -> Action<'static, ()> {
        done(
            self.named(self.img(&["resize", "-q", "--shrink"]), "-f")
                .arg(size.to_string()),
        )
    }
}

fn done(call: ToolCall) -> Action<'static, ()> {
    let place = call.place();
    Action::at(place, "qemu-img", async move {
        call.await?;
        Ok(())
    })
}
