//! Dirty bitmaps.

mod persistent;
mod refused;
