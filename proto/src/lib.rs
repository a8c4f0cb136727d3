//! Envoy's API types, Outrigger's own messages, and JSON/YAML with field paths.
