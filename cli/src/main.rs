//! The sitefs command.
fn main() {}
