//! What is decided of the load: without a clock and without a look at the machine, so that the same code runs in a
//! simulation.

mod books;
mod decide;
mod pool;
#[cfg(test)]
mod tests;

pub use books::{Books, Failed};
pub use decide::{Candidate, Costs, Move, Place, STAYS, View, best_place, decide, would_take};
pub use pool::{Moment, NoSchedule, Schedule, Share};
