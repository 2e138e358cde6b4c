//! The tables' grammar: open enumerations, open structures, commands and events.
//!
//! `@ "9.1.."` after a name says which versions have it. `= "wire_name"` gives the name on the
//! wire where it is not the Rust name with dashes.

/// An enumeration that keeps values which it does not know.
macro_rules! qapi_enum {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$vmeta:meta])* $variant:ident = $wire:literal $(@ $versions:literal)?,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
        #[serde(from = "String", into = "String")]
        #[non_exhaustive]
        pub enum $name {
            $(
                $(#[$vmeta])*
                #[doc = concat!("`", $wire, "`")]
                $variant,
            )+
            /// A value that this crate does not know.
            Other(String),
        }

        impl $name {
            /// The text on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $wire,)+
                    Self::Other(value) => value,
                }
            }
        }

        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                match value {
                    $($wire => Self::$variant,)+
                    _ => Self::Other(value.to_owned()),
                }
            }
        }

        impl From<String> for $name {
            fn from(value: String) -> Self {
                match value.as_str() {
                    $($wire => Self::$variant,)+
                    _ => Self::Other(value),
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                match value {
                    $name::Other(value) => value,
                    known => known.as_str().to_owned(),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::types::Describe for $name {
            fn shape() -> $crate::types::Shape {
                $crate::types::Shape::Enum(&$crate::types::EnumInfo {
                    name: stringify!($name),
                    values: &[$($crate::types::ValueInfo {
                        name: $wire,
                        versions: concat!($($versions)?),
                    },)+],
                })
            }
        }
    };
}

/// A structure that keeps members which it does not know.
macro_rules! qapi_struct {
    (
        $(#[$meta:meta])*
        $name:ident {
            $(
                $(#[$rmeta:meta])*
                $rfield:ident $(= $rwire:literal)? $(@ $rversions:literal)? : $rtype:ty,
            )*
        }
        $(optional {
            $(
                $(#[$ometa:meta])*
                $ofield:ident $(= $owire:literal)? $(@ $oversions:literal)? : $otype:ty,
            )*
        })?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub struct $name {
            $(
                $(#[$rmeta])*
                $(#[serde(rename = $rwire)])?
                pub $rfield: $rtype,
            )*
            $($(
                $(#[$ometa])*
                #[serde(skip_serializing_if = "Option::is_none")]
                $(#[serde(rename = $owire)])?
                pub $ofield: Option<$otype>,
            )*)?
            /// Members that this crate does not know.
            #[serde(flatten)]
            pub extra: serde_json::Map<String, serde_json::Value>,
        }

        impl $name {
            /// With these members, and no other.
            // Structures that QEMU returns have many members; nobody has to build those.
            #[allow(clippy::new_without_default, clippy::too_many_arguments)]
            pub fn new($($rfield: impl Into<$rtype>),*) -> Self {
                Self {
                    $($rfield: $rfield.into(),)*
                    $($($ofield: None,)*)?
                    extra: serde_json::Map::new(),
                }
            }

            $($(
                $(#[$ometa])*
                #[must_use]
                pub fn $ofield(mut self, value: impl Into<$otype>) -> Self {
                    self.$ofield = Some(value.into());
                    self
                }
            )*)?

            /// Adds a member that this crate does not know, by its name on the wire.
            #[must_use]
            pub fn set(
                mut self,
                name: impl Into<String>,
                value: impl Into<serde_json::Value>,
            ) -> Self {
                self.extra.insert(name.into(), value.into());
                self
            }
        }

        impl $crate::types::Describe for $name {
            fn shape() -> $crate::types::Shape {
                $crate::types::Shape::Object(&$crate::types::ObjectInfo {
                    name: stringify!($name),
                    members: &[
                        $($crate::types::MemberInfo {
                            field: stringify!($rfield),
                            wire: concat!($($rwire)?),
                            optional: false,
                            versions: concat!($($rversions)?),
                            shape: <$rtype as $crate::types::Describe>::shape,
                        },)*
                        $($($crate::types::MemberInfo {
                            field: stringify!($ofield),
                            wire: concat!($($owire)?),
                            optional: true,
                            versions: concat!($($oversions)?),
                            shape: <$otype as $crate::types::Describe>::shape,
                        },)*)?
                    ],
                })
            }
        }
    };
}

/// The commands of a module. Flags: `emulator` (no storage daemon has it), `oob`.
macro_rules! qapi_commands {
    ($(
        $(#[$meta:meta])*
        $wire:literal $(@ $versions:literal)? [$($flag:ident),*] $name:ident -> $return:ty
        { $($required:tt)* }
        $(optional { $($optional:tt)* })?
    )*) => {
        $(
            qapi_struct! {
                $(#[$meta])*
                #[doc = concat!("\n\nCommand `", $wire, "`.")]
                $name { $($required)* }
                $(optional { $($optional)* })?
            }

            impl $crate::Command for $name {
                const NAME: &'static str = $wire;
                const ALLOW_OOB: bool =
                    $crate::types::shape::has_flag(&[$(stringify!($flag)),*], "oob");
                type Return = $return;
            }
        )*

        pub(super) const COMMANDS: &[$crate::types::CommandInfo] = &[$(
            $crate::types::CommandInfo {
                name: $wire,
                versions: concat!($($versions)?),
                emulator_only:
                    $crate::types::shape::has_flag(&[$(stringify!($flag)),*], "emulator"),
                oob: <$name as $crate::Command>::ALLOW_OOB,
                arguments: <$name as $crate::types::Describe>::shape,
                returns: <$return as $crate::types::Describe>::shape,
            },
        )*];
    };
}

/// All events, and one enumeration over them. Flag: `emulator` (no storage daemon has it).
macro_rules! qapi_events {
    ($(
        $(#[$meta:meta])*
        $wire:literal $(@ $versions:literal)? [$($flag:ident),*] $name:ident
        { $($required:tt)* }
        $(optional { $($optional:tt)* })?
    )*) => {
        $(
            qapi_struct! {
                $(#[$meta])*
                #[doc = concat!("\n\nEvent `", $wire, "`.")]
                $name { $($required)* }
                $(optional { $($optional)* })?
            }

            impl EventData for $name {
                const NAME: &'static str = $wire;
            }
        )*

        /// An event with typed data.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum TypedEvent {
            $(
                #[doc = concat!("`", $wire, "`")]
                $name($name),
            )*
            /// An event that this crate does not know.
            Other($crate::Event),
        }

        impl TypedEvent {
            /// Gives an event's data its type.
            ///
            /// # Errors
            /// When the event is known and its data does not have the known form.
            pub fn decode(event: &$crate::Event) -> Result<Self, $crate::decode::DecodeError> {
                match event.name.as_str() {
                    $($wire => decode_data(event).map(Self::$name),)*
                    _ => Ok(Self::Other(event.clone())),
                }
            }
        }

        pub(super) const EVENTS: &[$crate::types::EventInfo] = &[$(
            $crate::types::EventInfo {
                name: $wire,
                versions: concat!($($versions)?),
                emulator_only:
                    $crate::types::shape::has_flag(&[$(stringify!($flag)),*], "emulator"),
                data: <$name as $crate::types::Describe>::shape,
            },
        )*];
    };
}
