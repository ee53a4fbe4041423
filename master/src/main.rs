//! The binary `tesela`.

fn main() {}
