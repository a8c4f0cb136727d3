//! The mesh model and its translation to xDS resources: pure, without I/O.
