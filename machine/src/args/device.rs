//! Guest devices (`-device`, and the arguments of `device_add`).

use super::{flatten, object};
use imgtools::image::Options;
use qmp::types::DeviceAdd;
use serde_json::{Map, Value};
use std::fmt;

/// One guest device. The key-value form is used on the command line, where it works for
/// every property of every version; [`Device::to_value`] gives the arguments of `device_add`.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    driver: String,
    properties: Map<String, Value>,
}

impl Device {
    /// A device of this driver, such as `virtio-scsi-pci`.
    #[must_use]
    pub fn new(driver: impl Into<String>) -> Self {
        Self {
            driver: driver.into(),
            properties: Map::new(),
        }
    }

    /// Sets the device's id.
    #[must_use]
    pub fn id(self, id: impl Into<String>) -> Self {
        self.set("id", id.into())
    }

    /// Sets the block node or drive behind the device.
    #[must_use]
    pub fn drive(self, node: impl Into<String>) -> Self {
        self.set("drive", node.into())
    }

    /// Sets one property.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.properties.insert(key.into(), value.into());
        self
    }

    /// The arguments of `device_add`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut all = Map::new();
        all.insert("driver".to_owned(), Value::String(self.driver.clone()));
        all.extend(self.properties.clone());
        Value::Object(all)
    }
}

/// For plugging it into a running guest.
impl From<&Device> for DeviceAdd {
    fn from(device: &Device) -> Self {
        let add = DeviceAdd::new(&*device.driver);
        let properties = device.properties.clone().into_iter();
        properties.fold(add, |add, (key, value)| add.set(key, value))
    }
}

impl From<Device> for DeviceAdd {
    fn from(device: Device) -> Self {
        Self::from(&device)
    }
}

/// For the command line.
impl From<&DeviceAdd> for Device {
    fn from(add: &DeviceAdd) -> Self {
        let mut properties = object(add);
        properties.remove("driver");
        Self {
            driver: add.driver.clone(),
            properties,
        }
    }
}

impl fmt::Display for Device {
    /// A key-value list; JSON where a property is a list or an object (such as
    /// `iothread-vq-mapping`), for which there is no other spelling. Not JSON throughout: QEMU 6.2
    /// sends no `DEVICE_DELETED` for devices given as JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.properties.values().any(|v| v.is_array() || v.is_object()) {
            return self.to_value().fmt(f);
        }
        flatten(&Value::Object(self.properties.clone()))
            .into_iter()
            .fold(Options::with_first(&self.driver), |o, (k, v)| o.set(&k, v))
            .fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_is_a_list_makes_it_json() {
        let mapping = serde_json::json!([{"iothread": "io0"}, {"iothread": "io1"}]);
        let device = Device::new("virtio-blk-pci").set("iothread-vq-mapping", mapping);
        assert_eq!(
            device.to_string(),
            r#"{"driver":"virtio-blk-pci","iothread-vq-mapping":[{"iothread":"io0"},{"iothread":"io1"}]}"#
        );
    }

    #[test]
    fn a_device_has_a_command_line_and_a_qmp_form() {
        let device = Device::new("virtio-blk-pci").id("v,0").drive("n").set("share-rw", true);
        assert_eq!(
            device.to_string(),
            "virtio-blk-pci,id=v,,0,drive=n,share-rw=on"
        );
        assert_eq!(
            device.to_value().to_string(),
            r#"{"driver":"virtio-blk-pci","id":"v,0","drive":"n","share-rw":true}"#
        );
    }
}
