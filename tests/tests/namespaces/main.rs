//! Injected pods in network namespaces: unmodified programs that know no proxy, through the sidecars of both ends.

mod kit;
mod kubelet;
