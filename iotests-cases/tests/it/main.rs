//! Tests of the cases as a whole, in one binary.

mod lint;
mod not_run;
mod odd_places;
mod running;
