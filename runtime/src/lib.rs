//! What runs on every member: the agent and the tools, the protocol with the master, and how a node that has
//! just been powered on comes by its keys.

pub mod agent;
pub mod balance;
pub mod discovery;
pub mod doctor;
pub mod durable;
pub mod enroll;
pub mod hpc;
pub mod load;
pub mod migrate;
pub mod port;
pub mod sntp;
pub mod tools;
pub mod wire;
