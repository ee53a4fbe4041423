//! What is decided of the load: without a clock and without a look at the machine, so that the same code runs in a
//! simulation.

mod pool;

pub use pool::{Moment, NoSchedule, Schedule, Share};
