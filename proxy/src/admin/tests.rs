use std::{net::SocketAddr, rc::Rc, time::Duration};

use http::StatusCode;
use outrigger_proto::google::protobuf::Any;
use prost::{Message, Name};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    config::{
        access_log::{AccessLog, LogFormat, Sink},
        bootstrap::{Admin, Node},
        format::Format,
    },
    snapshot::{DumpEntry, DumpState, Origin, Resource, Snapshot, state::Kind},
    telemetry::testing,
};

type Clusters = outrigger_proto::envoy::config::cluster::v3::Cluster;
type Listeners = outrigger_proto::envoy::config::listener::v3::Listener;

fn bootstrap(log: &Path) -> Arc<Bootstrap> {
    Arc::new(Bootstrap {
        node: Node::default(),
        listeners: Vec::new(),
        clusters: Vec::new(),
        lds: None,
        cds: None,
        ads: None,
        admin: Some(Admin {
            address: "127.0.0.1:0".parse().unwrap(),
            access_log: vec![AccessLog {
                name: "log".into(),
                sink: Sink::File(log.to_owned()),
                format: LogFormat::Text(
                    Format::parse("%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%\n").unwrap(),
                ),
            }],
        }),
        stats_flush_interval: Duration::from_secs(5),
        outlier_event_log: None,
        raw: Arc::default(),
    })
}

fn entry<M: Message + Name>(
    kind: Kind,
    name: &str,
    message: &M,
    origin: Origin,
    state: DumpState,
) -> DumpEntry {
    DumpEntry {
        kind,
        resource: Resource {
            name: name.into(),
            version: "v7".into(),
            body: Any {
                type_url: format!("type.googleapis.com/{}", M::full_name()),
                value: message.encode_to_vec(),
            },
            origin,
            updated: SystemTime::UNIX_EPOCH,
        },
        state,
    }
}

fn dump() -> Dump {
    let cluster = |name: &str| Clusters {
        name: name.to_owned(),
        ..Clusters::default()
    };
    let listener = Listeners {
        name: "l".to_owned(),
        ..Listeners::default()
    };
    let refused = || DumpState::Refused("lb_policy: not supported".to_owned());
    let (fixed, dynamic) = (Origin::Static, Origin::Dynamic);
    Dump {
        entries: vec![
            entry(
                Kind::Cluster,
                "echo",
                &cluster("echo"),
                fixed,
                DumpState::Active,
            ),
            entry(
                Kind::Cluster,
                "dyn",
                &cluster("dyn"),
                dynamic,
                DumpState::Active,
            ),
            entry(Kind::Cluster, "dyn", &cluster("dyn"), dynamic, refused()),
            entry(
                Kind::Cluster,
                "warm",
                &cluster("warm"),
                dynamic,
                DumpState::Warming,
            ),
            entry(Kind::Listener, "l", &listener, dynamic, DumpState::Active),
            entry(Kind::Listener, "l", &listener, dynamic, refused()),
        ],
    }
}

struct Server {
    address: SocketAddr,
    context: Rc<Context>,
    commands: mpsc::UnboundedReceiver<Command>,
    registry: Registry,
    log: std::path::PathBuf,
}

async fn start() -> Server {
    let log = std::env::temp_dir().join(format!("outrigger-admin-log-{}", uuid::Uuid::new_v4()));
    let registry = Registry::new(1);
    let publisher = Publisher::new();
    let hosts = [
        "127.0.0.1:18081".parse().unwrap(),
        "[::1]:1".parse().unwrap(),
    ];
    let clusters = ["echo", "dyn"].map(|name| testing::cluster(name, &hosts, &registry));
    publisher.publish(Snapshot {
        clusters: clusters
            .into_iter()
            .map(|cluster| (Arc::clone(cluster.name()), cluster))
            .collect(),
        ..Snapshot::default()
    });
    let level = std::cell::RefCell::new("info".to_owned());
    let (context, commands) = Context::new(
        registry.clone(),
        publisher,
        bootstrap(&log),
        Options {
            concurrency: 1,
            ..Options::default()
        },
        AccessLogs::new(&registry),
        Box::new(|| Box::pin(async { dump() })),
        Box::new(move |new| {
            if let Some(new) = new {
                new.clone_into(&mut level.borrow_mut());
            }
            Ok(level.borrow().clone())
        }),
    )
    .unwrap();
    let context = Rc::new(context);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(serve(listener, Rc::clone(&context)));
    Server {
        address,
        context,
        commands,
        registry,
        log,
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed may have removed it.
        let _gone = std::fs::remove_file(&self.log);
    }
}

struct Answer {
    status: StatusCode,
    head: String,
    body: String,
}

impl Server {
    async fn ask(&self, method: &str, path: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap();
        Answer {
            status: code.parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.ask("GET", path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer.head.contains("content-type: application/json"),
            "{path}"
        );
        serde_json::from_str(&answer.body).unwrap()
    }
}

/// Runs a test on a server of its own.
fn with_server(test: impl AsyncFnOnce(Server)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { test(start().await).await });
}

#[test]
fn readiness_follows_the_lifecycle_and_health_checks() {
    with_server(async |server| {
        for (lifecycle, status, text) in [
            (Lifecycle::PreInitializing, 503, "PRE_INITIALIZING\n"),
            (Lifecycle::Initializing, 503, "INITIALIZING\n"),
            (Lifecycle::Live, 200, "LIVE\n"),
            (Lifecycle::Draining, 503, "DRAINING\n"),
        ] {
            server.context.set_lifecycle(lifecycle);
            let answer = server.ask("GET", "/ready").await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (status, text));
            for header in [
                "cache-control: no-cache, max-age=0",
                "server: envoy",
                "date: ",
            ] {
                assert!(answer.head.contains(header), "{}", answer.head);
            }
        }
        server.context.set_lifecycle(Lifecycle::Live);
        assert_eq!(server.ask("POST", "/healthcheck/fail").await.body, "OK\n");
        assert_eq!(server.ask("GET", "/ready").await.body, "DRAINING\n");
        assert_eq!(server.ask("POST", "/healthcheck/ok").await.body, "OK\n");
        assert_eq!(server.ask("GET", "/ready").await.body, "LIVE\n");
        let info = server.json("/server_info").await;
        assert_eq!(info["state"], "LIVE");
        assert_eq!(info["command_line_options"]["concurrency"], 1);
    });
}

#[test]
fn what_changes_something_is_post_only() {
    with_server(async |mut server| {
        for path in [
            "/drain_listeners",
            "/healthcheck/fail",
            "/healthcheck/ok",
            "/logging",
            "/quitquitquit",
            "/reopen_logs",
            "/reset_counters",
        ] {
            let answer = server.ask("GET", path).await;
            assert_eq!(answer.status, 405, "{path}");
            assert_eq!(answer.body, "Method GET not allowed, POST required.");
        }
        assert!(server.commands.try_recv().is_err(), "nothing was done");
        assert_eq!(
            server
                .ask("POST", "/drain_listeners?inboundonly&graceful")
                .await
                .body,
            "OK\n"
        );
        let drain = Command::DrainListeners {
            graceful: true,
            inbound_only: true,
            skip_exit: false,
        };
        assert_eq!(server.commands.try_recv(), Ok(drain));
        assert_eq!(server.ask("POST", "/quitquitquit").await.body, "OK\n");
        assert_eq!(server.commands.try_recv(), Ok(Command::Quit));
    });
}

#[test]
fn an_unknown_path_gets_help() {
    with_server(async |server| {
        let answer = server.ask("GET", "/nope").await;
        assert_eq!(answer.status, 404);
        assert!(
            answer
                .body
                .starts_with("invalid path. admin commands are:\n  /: Admin home page\n")
        );
        assert!(
            answer
                .body
                .contains("\n  /logging (POST): query/change logging levels\n")
        );
        assert_eq!(server.ask("GET", "/help").await.status, 200);
    });
}

#[test]
fn statistics_come_in_three_forms() {
    with_server(async |server| {
        let counter = server.registry.scope("http.x").counter("downstream_rq_2xx");
        counter.add(3);
        let text = server
            .ask("GET", "/stats?filter=rq_2xx&usedonly")
            .await
            .body;
        assert_eq!(text, "http.x.downstream_rq_2xx: 3\n");
        let json = server.json("/stats?format=json&filter=%5Ehttp%5C.x").await;
        assert_eq!(json["stats"][0]["value"], 3);
        let text = server.ask("GET", "/stats/prometheus").await.body;
        let line = r#"envoy_http_downstream_rq_xx{envoy_response_code_class="2",envoy_http_conn_manager_prefix="x"} 3"#;
        assert!(text.lines().any(|other| other == line), "{text}");
        assert!(text.contains("\nenvoy_server_concurrency{} 1\n"));
        for bad in ["filter=(", "type=Foo", "format=foo", "histogram_buckets=x"] {
            assert_eq!(
                server.ask("GET", &format!("/stats?{bad}")).await.status,
                400,
                "{bad}"
            );
        }
        server.ask("POST", "/reset_counters").await;
        assert_eq!(counter.value(), 0);
    });
}

#[test]
fn clusters_are_shown_as_text_and_json() {
    with_server(async |server| {
        let text = server.ask("GET", "/clusters?filter=echo").await.body;
        let expected = "\
            echo::observability_name::echo\n\
            echo::default_priority::max_connections::1024\n\
            echo::default_priority::max_pending_requests::1024\n\
            echo::default_priority::max_requests::1024\n\
            echo::default_priority::max_retries::3\n\
            echo::high_priority::max_connections::1024\n\
            echo::high_priority::max_pending_requests::1024\n\
            echo::high_priority::max_requests::1024\n\
            echo::high_priority::max_retries::3\n\
            echo::added_via_api::false\n\
            echo::127.0.0.1:18081::cx_active::0\n\
            echo::127.0.0.1:18081::cx_connect_fail::0\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("echo::[::1]:1::health_flags::healthy\n"));
        let all = server.ask("GET", "/clusters").await.body;
        assert!(all.contains("dyn::added_via_api::true\n"));
        let json = server.json("/clusters?format=json").await;
        let echo = &json["cluster_statuses"][1];
        assert_eq!(echo["name"], "echo");
        assert_eq!(
            echo["circuit_breakers"]["thresholds"][1]["priority"],
            "HIGH"
        );
        let host = &echo["host_statuses"][0];
        assert_eq!(host["address"]["socket_address"]["port_value"], 18081);
        assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
        assert_eq!(host["stats"][6]["type"], "GAUGE");
    });
}

#[test]
fn the_configuration_is_dumped_with_states_and_errors() {
    with_server(async |server| {
        let dump = server.json("/config_dump?include_eds").await;
        let types: Vec<&str> = dump["configs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|config| {
                config["@type"]
                    .as_str()
                    .unwrap()
                    .rsplit_once('.')
                    .unwrap()
                    .1
            })
            .collect();
        assert_eq!(
            types,
            [
                "BootstrapConfigDump",
                "ClustersConfigDump",
                "EndpointsConfigDump",
                "ListenersConfigDump",
                "ScopedRoutesConfigDump",
                "RoutesConfigDump",
                "SecretsConfigDump",
            ]
        );
        let clusters = &dump["configs"][1];
        assert_eq!(clusters["version_info"], "v7");
        assert_eq!(clusters["static_clusters"][0]["cluster"]["name"], "echo");
        assert!(clusters["static_clusters"][0].get("version_info").is_none());
        let active = &clusters["dynamic_active_clusters"][0];
        assert_eq!(active["version_info"], "v7");
        assert_eq!(active["last_updated"], "1970-01-01T00:00:00.000Z");
        assert_eq!(active["error_state"]["details"], "lb_policy: not supported");
        let type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
        assert_eq!(active["cluster"]["@type"], type_url);
        assert_eq!(
            clusters["dynamic_warming_clusters"][0]["cluster"]["name"],
            "warm"
        );
        let listener = &dump["configs"][3]["dynamic_listeners"][0];
        assert_eq!(listener["active_state"]["listener"]["name"], "l");
        assert!(listener["error_state"]["failed_configuration"].is_object());
        let endpoints = &dump["configs"][2]["static_endpoint_configs"][0]["endpoint_config"];
        assert_eq!(endpoints["cluster_name"], "dyn");
    });
}

#[test]
fn a_dump_can_be_narrowed() {
    with_server(async |server| {
        let one = server
            .json("/config_dump?resource=static_clusters&mask=cluster.name")
            .await;
        let expected = serde_json::json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
            "cluster": {
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": "echo",
            },
        }]});
        assert_eq!(one, expected);
        let none = server
            .json("/config_dump?resource=dynamic_route_configs")
            .await;
        assert_eq!(none, serde_json::json!({}));
        let named = server.json("/config_dump?name_regex=warm").await;
        assert!(named["configs"][1].get("static_clusters").is_none());
        assert!(
            named["configs"][1]
                .get("dynamic_warming_clusters")
                .is_some()
        );
        let masked = server.json("/config_dump?mask=bootstrap").await;
        assert_eq!(masked["configs"].as_array().unwrap().len(), 1);
        for (bad, status) in [
            ("resource=nope", 404),
            ("resource=bootstrap", 400),
            ("resource=static_clusters&mask=nope", 400),
            ("mask=nope", 400),
            ("name_regex=(", 400),
        ] {
            let answer = server.ask("GET", &format!("/config_dump?{bad}")).await;
            assert_eq!(answer.status.as_u16(), status, "{bad}");
        }
    });
}

#[test]
fn the_log_level_is_shown_and_set() {
    with_server(async |server| {
        let shown = server.ask("POST", "/logging").await.body;
        assert_eq!(shown, "active loggers:\n  outrigger: info\n");
        let set = server.ask("POST", "/logging?level=debug").await.body;
        assert_eq!(set, "active loggers:\n  outrigger: debug\n");
        for bad in ["level=foo", "http=debug"] {
            let answer = server.ask("POST", &format!("/logging?{bad}")).await;
            assert_eq!(answer.status, 400, "{bad}");
            assert!(answer.body.contains("usage: /logging?level=<level>"));
        }
    });
}

#[test]
fn a_large_head_is_refused_and_the_rest_goes_on() {
    with_server(async |server| {
        let path = format!("/ready?{}", "x".repeat(64 * 1024));
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The server may close before it has read everything.
        let _closed = stream
            .write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())
            .await;
        let mut text = Vec::new();
        let _reset = stream.read_to_end(&mut text).await;
        assert!(!String::from_utf8_lossy(&text).contains("200 OK"));
        for path in [
            "/certs",
            "/runtime",
            "/init_dump",
            "/memory",
            "/listeners?format=json",
        ] {
            server.json(path).await;
        }
    });
}

#[test]
fn circuit_breakers_show_what_is_used_and_refused() {
    with_server(async |server| {
        let snapshot = server.context.publisher.current();
        let circuit = &snapshot.cluster("echo").unwrap().circuit;
        let requests = &circuit.of(crate::config::route::Priority::High).requests;
        let max = requests.max();
        for _ in 0..max {
            assert!(requests.try_acquire());
        }
        assert!(!requests.try_acquire());
        let shown = server
            .json("/circuit_breakers?format=json&filter=ech")
            .await;
        let all = shown["circuit_breakers"].as_array().unwrap();
        assert!(all.iter().all(|one| one["cluster"] == "echo"));
        let of = |priority: &str| {
            let found = all
                .iter()
                .find(|one| one["priority"] == priority && one["name"] == "max_requests");
            found.unwrap().clone()
        };
        let high = of("high");
        assert_eq!((&high["used"], &high["limit"]), (&max.into(), &max.into()));
        assert_eq!(high["trips"], 1);
        assert!(high["last_trip"].as_str().unwrap().starts_with("20"));
        let default = of("default");
        assert_eq!(
            (&default["used"], &default["trips"]),
            (&0.into(), &0.into())
        );
        assert!(default["last_trip"].is_null());
        let text = server.ask("GET", "/circuit_breakers").await.body;
        let line = format!("echo::high::max_requests::used={max} limit={max} trips=1 last_trip=20");
        assert!(text.contains(&line), "{text}");
        assert!(
            text.contains("dyn::default::max_connections::used=0 "),
            "{text}"
        );
        for _ in 0..max {
            requests.release();
        }
    });
}

#[test]
fn requests_are_logged() {
    with_server(async |server| {
        server.ask("GET", "/certs").await;
        server.ask("GET", "/nope?x").await;
        server.context.access_logs.flush(Duration::from_secs(10));
        let log = std::fs::read_to_string(&server.log).unwrap();
        assert_eq!(log, "GET /certs 200\nGET /nope?x 404\n");
    });
}

#[test]
fn the_address_is_written_whole() {
    let path = std::env::temp_dir().join(format!("outrigger-admin-{}", uuid::Uuid::new_v4()));
    write_address(&path, "127.0.0.1:9901".parse().unwrap()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "127.0.0.1:9901");
    std::fs::remove_file(path).unwrap();
}
