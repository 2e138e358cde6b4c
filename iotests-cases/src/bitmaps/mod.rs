//! Dirty bitmaps.

mod persistent;
