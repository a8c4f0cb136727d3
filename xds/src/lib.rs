//! The xDS protocol: client and server halves as state machines without I/O, and their gRPC adapters.
