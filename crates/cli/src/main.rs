//! etude.
fn main() {}
