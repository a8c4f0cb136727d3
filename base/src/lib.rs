//! Process plumbing that two binaries use.
