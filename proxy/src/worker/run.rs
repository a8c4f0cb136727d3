//! A worker's thread: its runtime, and how it follows snapshots and the process's life.

use std::{
    collections::HashSet,
    io,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::watch,
};

use super::{Worker, accept::Acceptor};
use crate::{
    config::listener::TrafficDirection, listener::Active, snapshot::Snapshot, telemetry::stats,
};

/// What the process is doing, as workers see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Serving.
    #[default]
    Running,
    /// Connections drain, and listeners close (`/drain_listeners`); the process goes on.
    DrainListeners {
        /// Only listeners of inbound traffic.
        inbound_only: bool,
        /// Only connections drain.
        keeps_listening: bool,
    },
    /// Nothing listens, connections drain, and the worker ends with its last connection.
    Draining,
    /// The worker ends at once.
    Stopped,
}

/// What a worker needs from the main thread.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--drain-time-s`
    pub drain_time: Duration,
    /// Configuration.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Life.
    pub phase: watch::Receiver<Phase>,
    /// `/healthcheck/fail`: clients are told to go after each response.
    pub is_failing_health_checks: Arc<AtomicBool>,
}

/// Starts the thread of worker `index` (from 1).
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn spawn(index: usize, settings: Settings) -> io::Result<thread::JoinHandle<io::Result<()>>> {
    thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            stats::set_worker(index);
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())?;
            runtime.block_on(run(index, settings));
            Ok(())
        })
}

async fn run(index: usize, settings: Settings) {
    let Settings {
        drain_time,
        mut snapshots,
        mut phase,
        is_failing_health_checks,
    } = settings;
    let first = Arc::clone(&snapshots.borrow_and_update());
    let worker = Worker::new(index, drain_time, first, is_failing_health_checks);
    let worker = Rc::new(worker);
    let mut acceptors = Vec::new();
    apply(&worker, &mut acceptors, *phase.borrow_and_update());
    loop {
        let now = *phase.borrow_and_update();
        if now == Phase::Stopped || (now == Phase::Draining && worker.connections.is_empty()) {
            return;
        }
        tokio::select! {
            biased;
            changed = phase.changed() => {
                if changed.is_err() {
                    return;
                }
                enter(&worker, &mut acceptors, *phase.borrow());
            }
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let next = Arc::clone(&snapshots.borrow_and_update());
                worker.set_snapshot(next);
                apply(&worker, &mut acceptors, now);
            }
            () = worker.connections.wait_empty(), if now == Phase::Draining => {}
        }
    }
}

/// Opens, keeps and closes sockets as the snapshot says; connections of listeners that are gone or
/// changed drain, others are not touched.
fn apply(worker: &Rc<Worker>, acceptors: &mut Vec<Acceptor>, phase: Phase) {
    let snapshot = worker.snapshot();
    let known: HashSet<u64> = snapshot
        .clusters
        .values()
        .map(|cluster| cluster.id)
        .collect();
    worker.pools.reconcile(|id| known.contains(&id));
    if phase != Phase::Running {
        // Nothing new listens any more: dropping this worker's socket closes it.
        for sockets in snapshot.listeners.iter().flat_map(|one| &one.sockets) {
            drop(sockets.take(worker.index));
        }
        return;
    }
    let wanted = |acceptor: &Acceptor| {
        snapshot.listeners.iter().find(|listener| {
            listener
                .sockets
                .iter()
                .any(|sockets| Arc::ptr_eq(sockets, &acceptor.sockets))
        })
    };
    for acceptor in std::mem::take(acceptors) {
        match wanted(&acceptor) {
            Some(listener) => {
                acceptor.update(listener);
                acceptors.push(acceptor);
            }
            None => acceptor.stop(worker),
        }
    }
    for listener in &snapshot.listeners {
        for sockets in &listener.sockets {
            if acceptors
                .iter()
                .any(|acceptor| Arc::ptr_eq(&acceptor.sockets, sockets))
            {
                continue;
            }
            match Acceptor::start(worker, sockets, listener) {
                Ok(Some(acceptor)) => acceptors.push(acceptor),
                Ok(None) => {}
                Err(error) => tracing::error!(
                    %error,
                    address = %sockets.address(),
                    listener = %listener.config.name,
                    "cannot listen"
                ),
            }
        }
    }
    worker.connections.drain(|used| {
        !snapshot
            .listeners
            .iter()
            .any(|listener| Arc::ptr_eq(listener, used))
    });
}

/// Does what a new phase asks for.
fn enter(worker: &Rc<Worker>, acceptors: &mut Vec<Acceptor>, phase: Phase) {
    let (inbound_only, keeps_listening) = match phase {
        Phase::Running => return,
        Phase::DrainListeners {
            inbound_only,
            keeps_listening,
        } => (inbound_only, keeps_listening),
        Phase::Draining | Phase::Stopped => (false, false),
    };
    let is_meant = |listener: &Arc<Active>| {
        !inbound_only || listener.config.direction == TrafficDirection::Inbound
    };
    if !keeps_listening {
        for acceptor in std::mem::take(acceptors) {
            if is_meant(&acceptor.listener()) {
                acceptor.stop(worker);
            } else {
                acceptors.push(acceptor);
            }
        }
    }
    worker.connections.drain(is_meant);
}
