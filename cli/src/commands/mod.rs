//! The commands, one file each.

pub(crate) mod check_inject;
pub(crate) mod inject;
pub(crate) mod injector;
mod limits;
pub(crate) mod redirect;
pub(crate) mod sidecar;
pub(crate) mod status;
pub(crate) mod traces;
pub(crate) mod validate;
