//! The commands, one file each.

mod limits;
pub(crate) mod status;
pub(crate) mod traces;
pub(crate) mod validate;
