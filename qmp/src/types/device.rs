//! Devices and objects.

use serde_json::Value;

use crate::command::Empty;

qapi_struct! {
    /// A property of an object.
    ObjectPropertyInfo {
        /// Its name.
        name: String,
        /// Its type.
        kind = "type": String,
    }
    optional {
        /// A description.
        description: String,
        /// Its default.
        default_value: Value,
    }
}

qapi_struct! {
    /// A type of objects.
    ObjectTypeInfo {
        /// Its name.
        name: String,
    }
    optional {
        /// Whether there can be no objects of it.
        is_abstract = "abstract": bool,
        /// The type that it is derived from.
        parent: String,
    }
}

qapi_commands! {
    /// Plugs a device; add its properties with `set`.
    "device_add" [emulator] DeviceAdd -> Empty {
        /// The type.
        driver: String,
    }
    optional {
        /// The bus.
        bus: String,
        /// The device's id.
        id: String,
    }

    /// Asks the guest to give up a device; `DEVICE_DELETED` follows if it does.
    "device_del" [emulator] DeviceDel -> Empty {
        /// Its id or QOM path.
        id: String,
    }

    /// Lists the properties of a type of device.
    "device-list-properties" [emulator] DeviceListProperties -> Vec<ObjectPropertyInfo> {
        /// The type.
        typename: String,
    }

    /// Makes an object; add its properties with `set`.
    "object-add" [] ObjectAdd -> Empty {
        /// The type.
        qom_type: String,
        /// The object's id.
        id: String,
    }

    /// Removes an object.
    "object-del" [] ObjectDel -> Empty {
        /// Its id.
        id: String,
    }

    /// Gives a property of an object.
    "qom-get" [] QomGet -> Value {
        /// The object's path.
        path: String,
        /// The property.
        property: String,
    }

    /// Sets a property of an object.
    "qom-set" [] QomSet -> Empty {
        /// The object's path.
        path: String,
        /// The property.
        property: String,
        /// Its value.
        value: Value,
    }

    /// Lists the properties of an object, its children among them.
    "qom-list" [] QomList -> Vec<ObjectPropertyInfo> {
        /// The object's path.
        path: String,
    }

    /// Lists types of objects.
    "qom-list-types" [] QomListTypes -> Vec<ObjectTypeInfo> {}
    optional {
        /// Only those derived from this one.
        implements: String,
        /// Whether to list abstract ones, too.
        is_abstract = "abstract": bool,
    }
}
