//! The mesh model and its translation to xDS resources. Pure: no I/O, no clock, no threads.
//!
//! Data flows one way:
//!
//! * [`parse`]: text of YAML files → typed objects, or findings with file, line, object and path;
//! * [`model`]: objects → one immutable [`model::Model`]; references that lead nowhere stay, with
//!   their reason, and heal when the object appears;
//! * [`status`]: what the model has to tell the user about each object;
//! * [`scope`]: what one proxy is (its node metadata) and what it may see;
//! * [`mod@translate`]: the model for one scope → listeners, routes, clusters and endpoints;
//! * [`bootstrap`]: the file that a sidecar starts with.

pub mod bootstrap;
pub mod model;
pub mod parse;
mod resolve;
pub mod scope;
pub mod status;
pub mod translate;

pub use model::{Model, ObjectRef};
pub use translate::{Resource, Resources, Translator};
