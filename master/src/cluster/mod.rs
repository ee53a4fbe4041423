//! cluster.yaml: parse, validate, resolve. Pure: no clock, no I/O, no other module of the master.
//!
//! Wire types (what the YAML says) are not the types here: a [`Cluster`] is validated and resolved,
//! with profiles merged, ranges expanded, and each value with its [`Origin`].

mod ids;
mod model;

pub use ids::{Mac, Uuid};
pub use model::*;
