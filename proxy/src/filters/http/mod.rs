//! HTTP filters.

/// Configuration of one HTTP filter.
#[derive(Clone, Debug)]
pub enum Config {
    /// `envoy.filters.http.router`.
    Router,
}
