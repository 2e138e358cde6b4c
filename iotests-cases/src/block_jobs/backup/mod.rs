//! Backups: refused, and with requests on their way.

use iotests_core::prelude::*;

defaults! { formats = [QCOW2], groups = [QUICK] }

mod errors;
mod in_flight;
mod interrupted;
mod refused;
mod whole;
