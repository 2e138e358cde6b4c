//! What a typed command is.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A command with typed arguments and a typed return value.
///
/// The value of the implementing type is the command's arguments; it serializes to an object, an
/// empty one if there are none. Implement it for commands that [`types`](crate::types) does not
/// have:
///
/// ```
/// #[derive(serde::Serialize)]
/// struct XDebugWaitJob {
///     id: String,
/// }
///
/// impl qmp::Command for XDebugWaitJob {
///     const NAME: &'static str = "x-debug-wait-job";
///     type Return = qmp::Empty;
/// }
/// ```
pub trait Command: Serialize {
    /// The command's name in QAPI.
    const NAME: &'static str;

    /// Whether it may be executed out of band.
    const ALLOW_OOB: bool = false;

    /// Whether it is answered on success, as all QEMU commands are; some guest agent commands are
    /// not.
    const ANSWERS: bool = true;

    /// Whether it is deprecated, to be removed in a later version.
    const DEPRECATED: bool = false;

    /// Whether it may change or be removed without notice.
    const UNSTABLE: bool = false;

    /// What it returns.
    type Return: DeserializeOwned + Send + 'static;
}

/// The return value of commands that return nothing: an object, whose members are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize, Serialize)]
pub struct Empty {}
