//! Connection pools of one worker: HTTP/1 with keep-alive, HTTP/2 with multiplexing.
//!
//! A pool belongs to a host and a priority. Who wants a connection gets one that is ready, or waits
//! in line while one is made, within the circuit breakers. Everything here lives on one thread.

mod connect;
mod failure;
mod guard;
pub(crate) mod http1;
pub(crate) mod http2;
mod switch;
pub(crate) mod tcp;
mod upload;
mod wait;

use std::{
    cell::{Cell, Ref, RefCell},
    collections::HashMap,
    fmt,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed},
};

pub(crate) use failure::{ConnectFailure, Failure, Limit};
pub(crate) use guard::ActiveRequest;
pub(crate) use switch::Switched;
pub(crate) use upload::{Upload, UploadState};

use super::{
    Cluster, ClusterStats, Host, Resources,
    lb::{self, Balancer, Key as PickKey},
};
use crate::config::route::Priority;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The pools of one worker, and its state of each cluster's load balancer.
#[derive(Default)]
pub struct Pools {
    http1: RefCell<Map<Key, Rc<http1::Pool>>>,
    http2: RefCell<Map<Key, Rc<http2::Pool>>>,
    tcp: RefCell<Map<Key, Rc<tcp::Pool>>>,
    balancers: RefCell<Map<u64, Balancer>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    host: u64,
    priority: Priority,
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools")
            .field("http1", &self.http1.borrow().len())
            .field("http2", &self.http2.borrow().len())
            .finish_non_exhaustive()
    }
}

/// What both kinds of pools have.
trait HostPool {
    fn new(base: Base) -> Rc<Self>;
    fn base(&self) -> &Rc<Base>;
    /// Takes no more requests; connections end when they are idle.
    fn drain(&self);
}

impl Pools {
    /// Picks a host of a cluster; none if there is none to pick.
    pub(crate) fn pick(
        &self,
        cluster: &Cluster,
        key: PickKey,
        random: impl FnMut() -> u64,
    ) -> Option<Arc<Host>> {
        let set = cluster.hosts.load();
        let mut balancers = self.balancers.borrow_mut();
        let balancer = balancers.entry(cluster.id).or_default();
        if balancer.generation() != set.generation {
            self.drain_removed();
        }
        if let Some(destinations) = &cluster.destinations {
            let host = key.destination.map(|address| {
                let known = set.at(address, key.source);
                known.map_or_else(|| destinations.host(address, key.source), Arc::clone)
            });
            match &host {
                Some(host) => host.note_used(),
                None => cluster.stats.upstream_cx_none_healthy.inc(),
            }
            return host;
        }
        if key.source.is_some() {
            cluster.stats.upstream_cx_none_healthy.inc();
            return None;
        }
        if let Some(host) = set.probe() {
            return Some(Arc::clone(host));
        }
        balancer.pick(cluster, &set, key, random, lb::now).cloned()
    }

    /// The HTTP/1 pool of a host; none if there are `max_connection_pools`.
    pub(crate) fn http1(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        priority: Priority,
    ) -> Option<Rc<http1::Pool>> {
        pool(&mut self.http1.borrow_mut(), cluster, host, priority)
    }

    /// The HTTP/2 pool of a host; none if there are `max_connection_pools`.
    pub(crate) fn http2(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        priority: Priority,
    ) -> Option<Rc<http2::Pool>> {
        pool(&mut self.http2.borrow_mut(), cluster, host, priority)
    }

    /// The maker of connections to a host that carry bytes; none if there are `max_connection_pools`.
    pub(crate) fn tcp(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        priority: Priority,
    ) -> Option<Rc<tcp::Pool>> {
        pool(&mut self.tcp.borrow_mut(), cluster, host, priority)
    }

    /// Lets go of pools whose hosts left their clusters (idle connections close, others finish), and of
    /// balancers whose clusters are not `known`. A worker calls this when its snapshot or some
    /// cluster's hosts changed.
    pub fn reconcile(&self, known: impl Fn(u64) -> bool) {
        self.balancers
            .borrow_mut()
            .retain(|cluster, _| known(*cluster));
        self.drain_removed();
    }

    fn drain_removed(&self) {
        retain_present(&mut self.http1.borrow_mut());
        retain_present(&mut self.http2.borrow_mut());
        retain_present(&mut self.tcp.borrow_mut());
    }
}

fn pool<P: HostPool>(
    pools: &mut Map<Key, Rc<P>>,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    priority: Priority,
) -> Option<Rc<P>> {
    let key = Key {
        host: host.id,
        priority,
    };
    let pool = pools
        .entry(key)
        .or_insert_with(|| P::new(Base::new(Arc::clone(cluster), Arc::clone(host), priority)));
    let base = pool.base();
    base.set_cluster(cluster);
    base.take_slot().then(|| Rc::clone(pool))
}

fn retain_present<P: HostPool>(pools: &mut Map<Key, Rc<P>>) {
    pools.retain(|_, pool| {
        let is_present = !pool.base().host.is_removed();
        if !is_present {
            pool.drain();
        }
        is_present
    });
}

/// What pools, connections and requests of one host and priority share.
#[derive(Debug)]
pub(crate) struct Base {
    host: Arc<Host>,
    priority: Priority,
    /// The newest version of the cluster that was seen; versions that share hosts differ only in
    /// what may change under a living connection.
    cluster: RefCell<Arc<Cluster>>,
    /// Connections, those being made included.
    connections: Cell<usize>,
    is_draining: Cell<bool>,
    /// The pool counts towards `max_connection_pools`: while it has connections.
    has_slot: Cell<bool>,
}

impl Base {
    fn new(cluster: Arc<Cluster>, host: Arc<Host>, priority: Priority) -> Self {
        Self {
            host,
            priority,
            cluster: RefCell::new(cluster),
            connections: Cell::new(0),
            is_draining: Cell::new(false),
            has_slot: Cell::new(false),
        }
    }

    /// Counts the pool in, unless it is already.
    fn take_slot(&self) -> bool {
        if self.has_slot.get() {
            return true;
        }
        let has_slot = self.resources().pools.try_acquire();
        if !has_slot {
            self.stats().upstream_cx_pool_overflow.inc();
        }
        self.has_slot.set(has_slot);
        has_slot
    }

    /// Counts the pool in whatever the limit: who waits needs a connection.
    fn keep_slot(&self) {
        if !self.has_slot.replace(true) {
            self.resources().pools.acquire();
        }
    }

    /// Counts the pool out.
    fn give_slot(&self) {
        if self.has_slot.replace(false) {
            self.resources().pools.release();
        }
    }

    /// Counts the pool out if it has no connections.
    fn give_unused_slot(&self) {
        if self.connections.get() == 0 {
            self.give_slot();
        }
    }

    fn set_cluster(&self, cluster: &Arc<Cluster>) {
        if !Arc::ptr_eq(&self.cluster.borrow(), cluster) {
            self.cluster.replace(Arc::clone(cluster));
        }
    }

    fn cluster(&self) -> Ref<'_, Arc<Cluster>> {
        self.cluster.borrow()
    }

    fn stats(&self) -> Ref<'_, ClusterStats> {
        Ref::map(self.cluster.borrow(), |cluster| &cluster.stats)
    }

    fn resources(&self) -> Ref<'_, Resources> {
        Ref::map(self.cluster.borrow(), |cluster| {
            cluster.circuit.of(self.priority)
        })
    }

    fn next_connection_id() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Relaxed)
    }

    /// Whether another connection may be made now. A pool without any may always make one: what
    /// waits here could else wait for ever for connections that other hosts hold.
    fn may_connect(&self) -> bool {
        let resources = self.resources();
        let of_host = self.host.stats.cx_active.load(Relaxed);
        let within = resources.connections.can_create()
            && of_host < u64::from(resources.max_connections_per_host());
        if !within {
            self.stats().upstream_cx_overflow.inc();
            resources.connections.trip();
        }
        within || self.connections.get() == 0
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        self.give_slot();
    }
}

#[cfg(test)]
mod tests;
