//! Builds, tests, benchmarks and shows Outrigger; installs what that needs.

fn main() {}
