//! The process itself: `/ready`, `/server_info`, `/memory`, `/logging` and the switches.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Command, Context, Lifecycle, query::Query, serve::Reply};
use crate::{
    snapshot::DumpState,
    telemetry::stats::{Gauge, Registry},
};

/// `server.…`
#[derive(Debug)]
pub(super) struct ServerStats {
    live: Gauge,
    state: Gauge,
    uptime: Gauge,
    concurrency: Gauge,
    memory_allocated: Gauge,
    memory_heap_size: Gauge,
    memory_physical_size: Gauge,
}

impl ServerStats {
    pub(super) fn new(registry: &Registry) -> Self {
        let scope = registry.scope("server");
        Self {
            live: scope.gauge("live"),
            state: scope.gauge("state"),
            uptime: scope.gauge("uptime"),
            concurrency: scope.gauge("concurrency"),
            memory_allocated: scope.gauge("memory_allocated"),
            memory_heap_size: scope.gauge("memory_heap_size"),
            memory_physical_size: scope.gauge("memory_physical_size"),
        }
    }

    /// Sets the gauges to what is true now.
    pub(super) fn update(&self, context: &Context) {
        let lifecycle = context.lifecycle();
        self.live.set(u64::from(lifecycle == Lifecycle::Live));
        self.state.set(match lifecycle {
            Lifecycle::Live => 0,
            Lifecycle::Draining => 1,
            Lifecycle::PreInitializing => 2,
            Lifecycle::Initializing => 3,
        });
        self.uptime.set(context.started.0.elapsed().as_secs());
        self.concurrency
            .set(u64::try_from(context.options.concurrency).unwrap_or(u64::MAX));
        let memory = Memory::read();
        self.memory_allocated.set(memory.allocated);
        self.memory_heap_size.set(memory.allocated);
        self.memory_physical_size.set(memory.physical);
    }
}

/// What the kernel says of our memory, in bytes.
#[derive(Default)]
struct Memory {
    /// Resident, and not from files; the allocator does not say what of it is free.
    allocated: u64,
    /// Resident.
    physical: u64,
}

impl Memory {
    fn read() -> Self {
        let mut memory = Self::default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for line in status.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let kilobytes = value
                .trim()
                .trim_end_matches(" kB")
                .parse()
                .unwrap_or(0_u64);
            match name {
                "RssAnon" => memory.allocated = kilobytes * 1024,
                "VmRSS" => memory.physical = kilobytes * 1024,
                _ => {}
            }
        }
        memory
    }
}

pub(super) fn memory() -> Reply {
    let memory = Memory::read();
    Reply::json(&json!({
        "allocated": memory.allocated.to_string(),
        "heap_size": memory.allocated.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": memory.physical.to_string(),
    }))
}

pub(super) fn ready(context: &Context) -> Reply {
    let lifecycle = context.lifecycle();
    let status = match lifecycle {
        Lifecycle::Live => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    Reply::new(status, format!("{}\n", lifecycle.name()))
}

pub(super) fn info(context: &Context) -> Reply {
    let uptime = format!("{}s", context.started.0.elapsed().as_secs());
    let options = &context.options;
    let node = outrigger_proto::value_from_message(&context.bootstrap.node.raw);
    Reply::json(&json!({
        "version": concat!("outrigger/", env!("CARGO_PKG_VERSION")),
        "state": context.lifecycle().name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "hot_restart_initializing": false,
        "command_line_options": {
            "concurrency": options.concurrency,
            "config_path": options.config_path,
            "config_yaml": options.config_yaml,
            "admin_address_path": options.admin_address_path,
            "log_level": options.log_level,
            "service_cluster": options.service_cluster,
            "service_node": options.service_node,
            "drain_time": format!("{}s", options.drain_time_s),
            "mode": "Serve",
            "disable_hot_restart": true,
            "restart_epoch": 0,
            "drain_strategy": "Gradual",
        },
        "node": node.unwrap_or(Value::Null),
    }))
}

const LEVELS: [&str; 7] = [
    "trace", "debug", "info", "warning", "error", "critical", "off",
];

pub(super) fn logging(query: Query<'_>, context: &Context) -> Reply {
    let mut pairs = query.pairs();
    let level = match (pairs.next(), pairs.next()) {
        (None, _) => (context.log_level)(None),
        (Some((name, level)), None) if name == "level" => {
            let level = if level == "warn" {
                "warning".into()
            } else {
                level
            };
            match LEVELS.contains(&&*level) || level.is_empty() {
                true => (context.log_level)((!level.is_empty()).then_some(&*level)),
                false => Err("unknown logger level".to_owned()),
            }
        }
        _ => Err("only the level of all loggers can be changed".to_owned()),
    };
    match level {
        Ok(level) => Reply::text(format!("active loggers:\n  outrigger: {level}\n")),
        Err(error) => {
            let text = format!(
                "error: {error}\n\nusage: /logging?level=<level> (change all levels)\nlevels: {} \n",
                LEVELS.join(" ")
            );
            Reply::new(StatusCode::BAD_REQUEST, text)
        }
    }
}

pub(super) fn health_check(context: &Context, is_failing: bool) -> Reply {
    context
        .is_failing_health_checks
        .store(is_failing, std::sync::atomic::Ordering::Relaxed);
    context.stats.update(context);
    Reply::text("OK\n")
}

pub(super) fn command(context: &Context, command: Command) -> Reply {
    match context.commands.send(command) {
        Ok(()) => Reply::text("OK\n"),
        Err(_) => Reply::new(StatusCode::SERVICE_UNAVAILABLE, "the server is ending\n"),
    }
}

/// Resources that are not warm yet, as targets that the start waits for.
pub(super) async fn init_dump(context: &Context) -> Reply {
    let dump = (context.dump)().await;
    let waiting: Vec<String> = dump
        .entries
        .iter()
        .filter(|entry| entry.state == DumpState::Warming)
        .map(|entry| format!("{:?} {}", entry.kind, entry.resource.name))
        .collect();
    match waiting.is_empty() {
        true => Reply::json(&json!({})),
        false => Reply::json(&json!({
            "unready_targets_dumps": [{"name": "init manager Server", "target_names": waiting}],
        })),
    }
}
