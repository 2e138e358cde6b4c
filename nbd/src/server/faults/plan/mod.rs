//! Fault plans as data: where, what, how often.
//!
//! A plan can be built in code, read with serde, or read in the INI grammar of QEMU's
//! `nbd-fault-injector.py` ([`FaultPlan::from_ini`]).
//!
//! ```
//! use nbd::server::plan::{Action, FaultPlan, On, Rule};
//! use nbd::proto::CommandType;
//! let plan = FaultPlan::new()
//!     .rule(Rule::new(On::reply(CommandType::WRITE), Action::Drop).nth(3))
//!     .rule(Rule::new(On::Greeting, Action::CLOSE).at_byte(8).connection(2));
//! let text = serde_json::to_string(&plan).unwrap();
//! assert_eq!(serde_json::from_str::<FaultPlan>(&text).unwrap(), plan);
//! ```

mod action;
mod engine;
mod ini;
mod rule;

pub use crate::proto::server::{Edit, Field, ReplyKind};
pub use action::{Action, Closing, Malformed, Side};
pub(in crate::server) use engine::{Engine, Firing, Point, Stage};
pub use ini::IniError;
pub use rule::{At, Connections, On, Range, Rule, Times};

use serde::{Deserialize, Serialize};

/// Where and how a server misbehaves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    /// The seed for probabilities and random bits.
    #[serde(default)]
    pub seed: u64,
    /// Tested in this order.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

impl FaultPlan {
    /// No faults.
    pub fn new() -> FaultPlan {
        FaultPlan::default()
    }

    /// Sets the seed.
    pub fn seed(mut self, seed: u64) -> FaultPlan {
        self.seed = seed;
        self
    }

    /// Adds a rule.
    pub fn rule(mut self, rule: Rule) -> FaultPlan {
        self.rules.push(rule);
        self
    }
}
