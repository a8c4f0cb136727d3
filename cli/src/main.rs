//! The command line of the Outrigger service mesh.

fn main() {}
