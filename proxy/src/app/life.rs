//! The process's life once it serves: commands and signals, and its orderly end.
//!
//! The proxy of a pod knows which connections come to its application and which from it, by the
//! `traffic_direction` of its listeners. It ends in that order: nothing new comes in, and what goes out goes on
//! until the application has no connection any more. Any other proxy drains all at once.

use std::{
    io,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::App;
use crate::{
    admin::{self, Lifecycle},
    config::listener::TrafficDirection,
    worker::{Busy, Drain, Phase, Scope},
};

/// How long the last access-log lines and spans may take.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often the workers are looked at for the application's last connection.
const LOOK: Duration = Duration::from_millis(50);

/// The signals that the process acts upon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
}

/// How far draining is.
#[derive(Default)]
struct Course {
    drain: Drain,
    /// When listeners that drain gracefully stop, and which.
    stop: Option<(Instant, Scope)>,
    /// The end was asked for, and is to come by then.
    end: Option<Instant>,
}

impl App {
    /// Runs until it is told to end, then ends in order.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
        };
        let mut course = Course::default();
        let next = loop {
            tokio::select! {
                () = sleep_until(course.stop.map(|(at, _)| at)) => {
                    let stopped = course.stop.take().map(|(_, scope)| scope);
                    course.drain.stopped = course.drain.stopped.max(stopped);
                    self.phase.send_replace(Phase::Running(course.drain));
                }
                () = sleep_until(course.end) => break Phase::Stopped,
                () = idle(&self.busy), if course.end.is_some() => break Phase::Draining,
                _ = signals.terminate.recv() => {
                    if let Some(next) = self.end(&mut course) {
                        break next;
                    }
                }
                _ = signals.interrupt.recv() => break Phase::Stopped,
                _ = signals.reopen.recv() => self.access_logs.reopen(),
                Some(command) = self.commands.recv() => match command {
                    admin::Command::Quit => {
                        if let Some(next) = self.end(&mut course) {
                            break next;
                        }
                    }
                    admin::Command::DrainListeners { graceful, inbound_only, skip_exit } => {
                        let scope = if inbound_only { Scope::Inbound } else { Scope::All };
                        course.drain(graceful, scope, (!skip_exit).then_some(self.drain_time));
                        self.phase.send_replace(Phase::Running(course.drain));
                    }
                },
            }
        };
        let end = course
            .end
            .unwrap_or_else(|| Instant::now() + self.drain_time);
        self.finish(next, end, signals).await
    }

    /// Begins to end, or says how the end goes on: one who asks twice does not want to wait.
    fn end(&self, course: &mut Course) -> Option<Phase> {
        if course.end.is_some() {
            return Some(Phase::Stopped);
        }
        self.admin.set_lifecycle(Lifecycle::Draining);
        tracing::info!(drain_time_s = self.drain_time.as_secs(), "draining");
        let snapshot = self.publisher.current();
        let has_direction = snapshot
            .listeners
            .iter()
            .any(|listener| listener.config.direction != TrafficDirection::Unspecified);
        if !has_direction {
            return Some(Phase::Draining);
        }
        course.end = Some(Instant::now() + self.drain_time);
        let drain = &mut course.drain;
        drain.ending = Some(Scope::Inbound);
        drain.stopped = drain.stopped.max(Some(Scope::Inbound));
        self.phase.send_replace(Phase::Running(*drain));
        None
    }

    /// Waits for the workers, but not longer than until `end`, or until somebody asks again.
    async fn finish(
        mut self,
        next: Phase,
        end: Instant,
        mut signals: Signals,
    ) -> anyhow::Result<()> {
        self.admin.set_lifecycle(Lifecycle::Draining);
        self.phase.send_replace(next);
        let mut ended = tokio::task::spawn_blocking(move || join(self.workers));
        let ended = tokio::select! {
            ended = &mut ended => ended,
            () = async {
                tokio::select! {
                    _ = signals.terminate.recv() => {}
                    _ = signals.interrupt.recv() => {}
                    () = quit(&mut self.commands) => {}
                    () = sleep_until(Some(end)) => {}
                }
            } => {
                self.phase.send_replace(Phase::Stopped);
                ended.await
            }
        };
        self.exporters.flush(LAST_WORDS).await;
        self.access_logs.flush(LAST_WORDS);
        ended.context("a worker could not be waited for")?
    }
}

impl Course {
    /// `/drain_listeners`: gracefully with `stop` as the time after which listeners stop, if they do.
    fn drain(&mut self, graceful: bool, scope: Scope, stop: Option<Duration>) {
        if !graceful {
            self.drain.stopped = self.drain.stopped.max(Some(scope));
        } else if self.drain.leaving.is_none() {
            // Draining goes on, whatever is asked for later, as in Envoy.
            let now = Instant::now();
            self.drain.leaving = Some((scope, now));
            self.stop = stop.map(|time| (now + time, scope));
        }
    }
}

/// Ends when no worker has a connection to or from the application.
async fn idle(busy: &[Arc<Busy>]) {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        if busy.iter().all(|worker| worker.is_idle()) {
            return;
        }
    }
}

/// Ends with the next `/quitquitquit`.
async fn quit(commands: &mut mpsc::UnboundedReceiver<admin::Command>) {
    loop {
        match commands.recv().await {
            Some(admin::Command::Quit) => return,
            Some(admin::Command::DrainListeners { .. }) => {}
            None => std::future::pending().await,
        }
    }
}

/// Ends at that moment; never without one.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits for the workers.
fn join(workers: Vec<JoinHandle<io::Result<()>>>) -> anyhow::Result<()> {
    for worker in workers {
        match worker.join() {
            Ok(result) => result.context("a worker failed")?,
            Err(_) => bail!("a worker panicked"),
        }
    }
    Ok(())
}
