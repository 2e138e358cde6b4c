//! Hot-plug.

use crate::machine::Machine;
use qmp::types::{DeviceAdd, DeviceDel, DeviceDeleted, DeviceUnplugGuestError, EventData as _};
use qmp::{Matcher, RecvError};
use std::time::Duration;

/// Why a device was not unplugged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnplugError {
    /// QEMU refused: there is no such device, or its bus has no hot-plug.
    #[error("failed to unplug {id:?} of {name}")]
    Qmp {
        /// The machine's name in messages.
        name: String,
        /// The device.
        id: String,
        /// Why.
        source: Box<qmp::Error>,
    },
    /// The guest refused to release it.
    #[error("failed to unplug {id:?} of {name}: the guest refused")]
    Refused {
        /// The machine's name in messages.
        name: String,
        /// The device.
        id: String,
    },
    /// The guest did not release it in time. It still may: the request stays pending.
    #[error("failed to unplug {id:?} of {name} within {limit:?}: the guest has not released it")]
    TimedOut {
        /// The machine's name in messages.
        name: String,
        /// The device.
        id: String,
        /// The time limit.
        limit: Duration,
    },
    /// The session ended, or events were lost, before the device was gone.
    #[error("failed to see whether {id:?} of {name} was unplugged")]
    Lost {
        /// The machine's name in messages.
        name: String,
        /// The device.
        id: String,
        /// Why.
        source: RecvError,
    },
}

impl Machine {
    /// Plugs a device into the running guest (`device_add`): a [`Device`](crate::args::Device), or
    /// QMP's type for it. Set an id to be able to unplug it.
    ///
    /// # Errors
    /// As the command.
    pub async fn plug(&self, device: impl Into<DeviceAdd>) -> Result<(), qmp::Error> {
        self.qmp().call(device.into()).await.map(drop)
    }

    /// Unplugs a device (`device_del`) and waits until it is gone: most buses ask the guest, whose
    /// driver has to release it. A guest that runs no code never does, unless it is reset.
    ///
    /// # Errors
    /// See [`UnplugError`].
    pub async fn unplug(&self, id: &str, limit: Duration) -> Result<(), UnplugError> {
        let names = [DeviceDeleted::NAME, DeviceUnplugGuestError::NAME];
        // Its child devices send events as well, with only a path.
        let own = id.to_owned();
        let mine = Matcher::one_of(names).when(move |event| event.text("device") == Some(&own));
        let mut events = self.qmp().subscribe(mine);
        let (name, id) = (|| self.name().to_owned(), || id.to_owned());
        let deleted = async {
            let asked = self.qmp().call(DeviceDel::new(id()));
            asked.await.map_err(|source| UnplugError::Qmp {
                name: name(),
                id: id(),
                source: Box::new(source),
            })?;
            match events.recv().await {
                Ok(event) if event.name == DeviceDeleted::NAME => Ok(()),
                Ok(_) => Err(UnplugError::Refused {
                    name: name(),
                    id: id(),
                }),
                Err(source) => Err(UnplugError::Lost {
                    name: name(),
                    id: id(),
                    source,
                }),
            }
        };
        let timed_out = UnplugError::TimedOut {
            name: name(),
            id: id(),
            limit,
        };
        tokio::time::timeout(limit, deleted).await.unwrap_or(Err(timed_out))
    }
}
