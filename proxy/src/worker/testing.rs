//! A worker with real sockets for tests.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::watch;

use super::{Phase, Settings, spawn};
use crate::{
    bootstrap::{self, Overrides},
    config,
    listener::{Active, Build},
    snapshot::{Publisher, Snapshot, State, state::Host},
    telemetry::{access_log::AccessLogs, otlp::Exporters, stats::Registry},
    upstream::Cluster,
};

/// One worker that serves a bootstrap.
pub(crate) struct TestWorker {
    pub(crate) registry: Registry,
    pub(crate) publisher: Publisher,
    pub(crate) phase: watch::Sender<Phase>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Binds sockets, finds no hosts.
pub(crate) struct TestHost(Build);

impl TestHost {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self(Build {
            registry: registry.clone(),
            workers: 1,
            access_logs: AccessLogs::new(registry),
            exporters: Exporters::new(registry).0,
            own_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            shows_reasons: true,
            service_cluster: "cluster".into(),
            service_node: "node".into(),
        })
    }
}

impl Host for TestHost {
    fn activate(
        &mut self,
        config: Arc<config::listener::Listener>,
        previous: Option<&Arc<Active>>,
    ) -> Result<Arc<Active>, String> {
        Active::new(config, previous, &self.0)
    }

    fn discover(&mut self, _: &Arc<Cluster>) {}
}

impl TestWorker {
    /// Starts with this bootstrap in YAML.
    pub(crate) fn start(yaml: &str) -> Self {
        let bootstrap = bootstrap::load(yaml, &Overrides::default()).unwrap();
        let registry = Registry::new(1);
        let mut host = TestHost::new(&registry);
        let mut state = State::new(&bootstrap, &registry, &mut host).unwrap();
        let publisher = Publisher::new();
        publisher.publish(state.settle().unwrap());
        let (phase, phases) = watch::channel(Phase::default());
        let settings = Settings {
            drain_time: Duration::from_secs(60),
            snapshots: publisher.subscribe(),
            phase: phases,
            is_failing_health_checks: Arc::default(),
        };
        Self {
            registry,
            publisher,
            phase,
            thread: Some(spawn(1, settings, Arc::default()).unwrap()),
        }
    }

    /// A bootstrap with one listener whose connection manager has these further lines (indented by
    /// ten), `/direct` answered directly, and everything else sent to `upstream`.
    pub(crate) fn yaml(hcm: &str, upstream: Option<SocketAddr>) -> String {
        let port = upstream.map_or(1, |address| address.port());
        format!(
            r#"
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: t
{hcm}
          route_config:
            name: r
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes:
              - match: {{path: /direct}}
                direct_response: {{status: 200, body: {{inline_string: hello}}}}
              - match: {{prefix: /}}
                route: {{cluster: up}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: up
    type: STATIC
    load_assignment:
      cluster_name: up
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}
"#
        )
    }

    /// Where the first listener listens: from its publication on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.publisher.current().listeners[0].sockets[0].address()
    }

    /// Publishes what `change` makes of the snapshot.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut next = Snapshot::clone(&self.publisher.current());
        next.version += 1;
        change(&mut next);
        self.publisher.publish(next);
    }

    /// The value of a counter or gauge.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let scope = self.registry.scope("");
        scope.counter(name).value()
    }

    /// Waits for the worker's end, which `phase` must have caused.
    pub(crate) async fn ended(mut self) {
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap().unwrap())
            .await
            .unwrap();
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Stopped);
        if let Some(thread) = self.thread.take() {
            // A worker's panic is a failure of its test.
            let result = thread.join();
            if !std::thread::panicking() {
                result.unwrap().unwrap();
            }
        }
    }
}
