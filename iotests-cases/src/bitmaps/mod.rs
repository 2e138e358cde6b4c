//! Dirty bitmaps.

mod merged;
mod persistent;
mod refused;
