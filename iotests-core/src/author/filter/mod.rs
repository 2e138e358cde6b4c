//! Filters, which hide what differs between two runs of the same case before texts are compared.
//!
//! [`text`] and [`json`] contain the pure functions, each documented with what it hides and why.
//! [`Filter`] represents them as values, which can be chained and applied to both text and JSON;
//! [`Filter::unsteady`] is the chain applied to every line of a case's log.
//!
//! Three laws hold for each filter, and are property-tested: it is idempotent; nothing of what it
//! should hide is left; everything else is unchanged. All run in time linear in the text.

pub mod json;
mod paths;
#[cfg(test)]
mod properties;
pub mod text;
mod value;

pub use paths::Hidden;
pub use value::Filter;
