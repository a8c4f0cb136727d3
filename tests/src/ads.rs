//! A fake xDS server.
