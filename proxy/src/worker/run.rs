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

use super::{Busy, Drain, Scope, Worker, accept::Acceptor};
use crate::{listener::Active, snapshot::Snapshot, telemetry::stats};

/// What the process is doing, as workers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Serving, as far as listeners were not told to drain.
    Running(Drain),
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

/// Starts the thread of worker `index` (from 1), which says by `busy` whether it is.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn spawn(
    index: usize,
    settings: Settings,
    busy: Arc<Busy>,
) -> io::Result<thread::JoinHandle<io::Result<()>>> {
    thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            stats::set_worker(index);
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())?;
            runtime.block_on(run(index, settings, busy));
            Ok(())
        })
}

async fn run(index: usize, settings: Settings, busy: Arc<Busy>) {
    let Settings {
        drain_time,
        mut snapshots,
        mut phase,
        is_failing_health_checks,
    } = settings;
    let first = Arc::clone(&snapshots.borrow_and_update());
    let worker = Worker::new(index, drain_time, first, is_failing_health_checks, busy);
    let worker = Rc::new(worker);
    let mut acceptors = Vec::new();
    enter(&worker, &mut acceptors, *phase.borrow_and_update());
    apply(&worker, &mut acceptors);
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
                apply(&worker, &mut acceptors);
            }
            () = worker.connections.wait_empty(), if now == Phase::Draining => {}
        }
    }
}

/// Opens, keeps and closes sockets as the snapshot says; connections of listeners that are gone or
/// changed drain, others are not touched.
fn apply(worker: &Rc<Worker>, acceptors: &mut Vec<Acceptor>) {
    let snapshot = worker.snapshot();
    let known: HashSet<u64> = snapshot
        .clusters
        .values()
        .map(|cluster| cluster.id)
        .collect();
    worker.pools.reconcile(|id| known.contains(&id));
    let drain = worker.drain.get();
    let has_stopped = |listener: &Active| drain.has_stopped(listener.config.direction);
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
            Some(listener) if !has_stopped(listener) => {
                acceptor.update(listener);
                acceptors.push(acceptor);
            }
            _ => acceptor.stop(worker),
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
            if has_stopped(listener) {
                // Dropping this worker's socket closes it.
                drop(sockets.take(worker.index));
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
    let drain = match phase {
        Phase::Running(drain) => drain,
        Phase::Draining | Phase::Stopped => Drain {
            stopped: Some(Scope::All),
            ..worker.drain.get()
        },
    };
    worker.drain.set(drain);
    for acceptor in std::mem::take(acceptors) {
        if drain.has_stopped(acceptor.listener().config.direction) {
            acceptor.stop(worker);
        } else {
            acceptors.push(acceptor);
        }
    }
    if !matches!(phase, Phase::Running(_)) {
        worker.connections.drain(|_| true);
    } else if let Some(scope) = drain.ending {
        worker
            .connections
            .drain(|listener| scope.covers(listener.config.direction));
    }
}

impl Default for Phase {
    fn default() -> Self {
        Self::Running(Drain::default())
    }
}
