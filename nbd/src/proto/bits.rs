//! Flag words: sets of named bits in which unknown bits survive.
//!
//! The protocol has eight of them, and this crate's core avoids a dependency for them.

macro_rules! flag_words {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident: $repr:ty {
            $( $(#[$fmeta:meta])* const $flag:ident = $value:expr; )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name($repr);

        impl $name {
            $( $(#[$fmeta])* pub const $flag: $name = $name($value); )*

            const NAMES: &'static [(&'static str, $repr)] = &[$((stringify!($flag), $value)),*];

            /// No bit.
            pub const fn empty() -> $name {
                $name(0)
            }

            /// Every named bit.
            pub const fn all() -> $name {
                $name(0 $(| $value)*)
            }

            /// The number on the wire.
            pub const fn bits(self) -> $repr {
                self.0
            }

            /// From the number on the wire; bits without a name are kept.
            pub const fn from_bits_retain(bits: $repr) -> $name {
                $name(bits)
            }

            /// Whether no bit is set.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Whether all of these bits are set.
            pub const fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether any of these bits is set.
            pub const fn intersects(self, other: $name) -> bool {
                self.0 & other.0 != 0
            }

            /// The names of the bits that are set and have one, with the bits.
            pub fn iter_names(self) -> impl Iterator<Item = (&'static str, $name)> {
                let set = move |(_, bits): &&(&'static str, $repr)| self.0 & bits == *bits;
                $name::NAMES.iter().filter(set).map(|(name, bits)| (*name, $name(*bits)))
            }

            /// These bits if `condition` holds, else none.
            pub const fn only_if(self, condition: bool) -> $name {
                if condition { self } else { $name(0) }
            }
        }

        impl std::ops::BitOr for $name {
            type Output = $name;
            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }

        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: $name) {
                self.0 |= other.0;
            }
        }

        impl std::ops::BitAnd for $name {
            type Output = $name;
            fn bitand(self, other: $name) -> $name {
                $name(self.0 & other.0)
            }
        }

        impl std::ops::Sub for $name {
            type Output = $name;
            fn sub(self, other: $name) -> $name {
                $name(self.0 & !other.0)
            }
        }

        impl std::ops::SubAssign for $name {
            fn sub_assign(&mut self, other: $name) {
                self.0 &= !other.0;
            }
        }

        /// The protocol's names, such as `READ_ONLY | SEND_FLUSH`.
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut left = self.0;
                let mut between = "";
                for (name, bits) in $name::NAMES {
                    if left & bits == *bits {
                        write!(f, "{between}{name}")?;
                        left &= !bits;
                        between = " | ";
                    }
                }
                if left != 0 || self.0 == 0 {
                    write!(f, "{between}{left:#x}")?;
                }
                Ok(())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    )*};
}

pub(crate) use flag_words;

#[cfg(test)]
mod tests {
    use crate::proto::TransmissionFlags as F;

    #[test]
    fn a_flag_word_prints_its_names_and_keeps_what_has_none() {
        let flags = F::READ_ONLY | F::HAS_FLAGS | F::from_bits_retain(0x8000);
        assert_eq!(flags.to_string(), "HAS_FLAGS | READ_ONLY | 0x8000");
        assert_eq!((flags - F::READ_ONLY).bits(), 0x8001);
        assert_eq!(F::empty().to_string(), "0x0");
        assert!(F::all().contains(F::SEND_CACHE) && !F::all().contains(flags));
    }
}
