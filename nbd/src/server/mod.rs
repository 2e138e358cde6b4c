//! An NBD server that is exactly as evil as a test needs.
//!
//! [`Server`] speaks any of the five modes on top of a [`Backend`]. A [`FaultPlan`] says, as data,
//! where it misbehaves: each [`Rule`] names a point of the conversation, an action and a budget.
//! Everything that happens is in the [`Journal`]; [`Server::finish`] fails if a rule never fired.
//!
//! | module | owns |
//! |---|---|
//! | [`backend`] | what the exports hold: zeroes, a pattern, memory, a file, another server |
//! | [`plan`] | fault plans: rules, the old INI grammar, which rule fires when |
//! | [`journal`] | what happened |
//! | [`shadow`] | what became of each write |
//! | [`clock`] | delays that can be virtual |

pub mod backend;
mod builder;
pub mod clock;
mod connection;
mod deceit;
mod error;
mod execute;
mod export;
mod handle;
pub mod journal;
mod layout;
mod listener;
mod negotiate;
pub mod plan;
mod reply;
pub mod shadow;
mod state;
mod transmit;
mod trigger;
mod wire;

pub use backend::Backend;
pub use builder::ServerBuilder;
pub use clock::Clock;
pub use error::ServerError;
pub use export::Export;
pub use handle::Server;
pub use journal::{Entry, Event, Journal};
pub use plan::{Action, FaultPlan, On, Rule};
pub use shadow::WriteShadow;
pub use trigger::Trigger;
