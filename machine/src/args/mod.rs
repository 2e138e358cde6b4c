//! Typed command line arguments, quoted the way QEMU unquotes them.
//!
//! Two syntaxes exist. Key-value lists ([`Options`](imgtools::image::Options)) separate members by
//! commas, so a comma inside a value is doubled. JSON ([`Blockdev`], [`Object`]) needs no such
//! escaping and keeps types; it is used wherever all supported versions (6.2 and later) accept it.
//!
//! What QMP has types for ([`BlockdevOptions`](qmp::types::BlockdevOptions),
//! [`ObjectOptions`](qmp::types::ObjectOptions),
//! [`BlockExportOptions`](qmp::types::BlockExportOptions), [`DeviceAdd`](qmp::types::DeviceAdd))
//! can be used on a command line as well: convert them with `from`, or build the types here
//! directly for a few keys.
//!
//! A path names exactly that file, byte for byte. JSON is UTF-8: a path that is not, where JSON is
//! required, is an error ([`PathError`]).

mod blockdev;
mod chardev;
mod device;
mod drive;
mod export;
mod incoming;
mod netdev;
mod object;
mod path;

use serde_json::{Map, Value};

/// The members of QMP arguments: their types serialize to objects.
fn object(arguments: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(arguments) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

pub use blockdev::{Blockdev, flatten};
pub use chardev::Chardev;
pub use device::Device;
pub use drive::Drive;
pub use export::{Export, NbdServer};
pub use incoming::Incoming;
pub use netdev::Netdev;
pub use object::Object;
pub use path::PathError;

#[cfg(test)]
mod tests {
    use super::*;
    use qmp::types::{
        BlockExportOptions, BlockExportOptionsNbd, BlockdevOptions, BlockdevOptionsFile,
        BlockdevOptionsQcow2, DeviceAdd, ObjectOptions, ObjectOptionsVariant, RngProperties,
    };

    #[test]
    fn what_qmp_has_types_for_stands_on_a_command_line_too() {
        let file = BlockdevOptions::new(BlockdevOptionsFile::new("/a,b"));
        let node = BlockdevOptions::new(BlockdevOptionsQcow2::new(file)).node_name("n");
        let own = Blockdev::new("qcow2").node("n").child("file", Blockdev::file("/a,b").unwrap());
        assert_eq!(Blockdev::from(&node), own);

        let rng = ObjectOptionsVariant::RngBuiltin(Box::new(RngProperties::new()));
        let own = Object::new("rng-builtin", "r");
        assert_eq!(Object::from(&ObjectOptions::new("r", rng)), own);

        let nbd = BlockExportOptions::new("e", "n", BlockExportOptionsNbd::new().name("x"));
        let own = Export::nbd("e", "n").set("name", "x");
        assert_eq!(Export::from(&nbd.writable(true)), own.writable(true));
    }

    #[test]
    fn a_device_is_plugged_as_it_is_given_on_a_command_line() {
        let device = Device::new("virtio-rng-pci").id("r0").set("rng", "r");
        let add = DeviceAdd::new("virtio-rng-pci").id("r0").set("rng", "r");
        assert_eq!(
            serde_json::to_value(DeviceAdd::from(&device)).unwrap(),
            device.to_value()
        );
        assert_eq!(Device::from(&add), device);
    }
}
