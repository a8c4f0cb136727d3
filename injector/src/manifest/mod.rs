//! Manifests: text with any number of documents, each any object, some of which have pods in them.
//!
//! A document that does not change keeps its text, comments and all; one that does is written anew, with
//! its fields in their order.

mod read;
mod walk;
mod write;

pub use read::{Document, documents, parse};
pub use walk::{Action, Format, Item, ItemResult, Rewritten, each_pod, rewrite};
pub use write::to_yaml;
