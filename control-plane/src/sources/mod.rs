//! Where the mesh model comes from. A source knows how to watch and to read; what the objects mean
//! is `outrigger-mesh`'s business.

pub mod collect;
pub mod files;
pub mod first_seen;
pub mod last_good;
