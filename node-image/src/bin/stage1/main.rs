//! The first program on a node.
fn main() {}
