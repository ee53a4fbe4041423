//! What is decided of the load: without a clock and without a look at the machine, so that the same code runs in a
//! simulation.

mod decide;
mod pool;
#[cfg(test)]
mod tests;

pub use decide::{Candidate, Costs, Move, Place, STAYS, View, decide, would_take};
pub use pool::{Moment, NoSchedule, Schedule, Share};
