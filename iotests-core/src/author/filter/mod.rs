//! Filters: what differs between two runs of the same case is hidden before texts are compared.
//!
//! [`text`] and [`json`] hold the pure functions, each with what it hides and why. [`Filter`] is the
//! same as values, which can be chained and applied to text and JSON alike; [`Filter::unsteady`] is
//! the chain that every line of a case's log goes through.
//!
//! Three laws hold for each filter, and are property-tested: filtering twice is filtering once;
//! nothing of what a filter hides is left; what is not its business stays as it was. All run in
//! time linear in the text.

pub mod json;
mod paths;
#[cfg(test)]
mod properties;
pub mod text;
mod value;

pub use paths::Hidden;
pub use value::Filter;
