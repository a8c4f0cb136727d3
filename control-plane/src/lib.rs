//! The control plane: sources, xDS server, traces and status APIs.
