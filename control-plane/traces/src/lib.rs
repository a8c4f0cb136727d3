//! The embedded span store and its queries.
