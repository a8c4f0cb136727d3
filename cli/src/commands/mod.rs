//! The commands, one file each.

pub(crate) mod status;
pub(crate) mod traces;
pub(crate) mod validate;
