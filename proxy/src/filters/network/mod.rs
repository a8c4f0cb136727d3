//! Network filters: what is done with a connection. The HTTP connection manager is the other one, in `http`.

pub mod tcp_proxy;
