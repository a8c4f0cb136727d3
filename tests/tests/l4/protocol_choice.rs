//! The choice of a protocol on a port of which nothing is declared: whoever speaks first decides, while the host is
//! already connected. No limit of time is waited for where one of both speaks: it is longer than a test may take.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use outrigger_tests::client::raw::{Step, talk};
use outrigger_tests::proxy::{Kind, Proxy};
use outrigger_tests::upstream::{Refused, Speaks, TcpHost, Upstream};
use outrigger_tests::{block_on, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::kit::{self, LIMIT, cluster, http, socket, typed};

pub(crate) const REQUEST: &str = "GET /here HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// A proxy, its one address, its log of TCP connections, and what HTTP is routed to.
pub(crate) struct Place {
    pub(crate) proxy: Proxy,
    pub(crate) address: SocketAddr,
    http: Upstream,
    log: std::path::PathBuf,
}

/// What differs between tests.
pub(crate) struct Setting {
    pub(crate) timeout: &'static str,
    pub(crate) choice: Value,
    pub(crate) limit: u32,
    pub(crate) attempts: u32,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            timeout: "600s",
            choice: json!({}),
            limit: 100,
            attempts: 1,
        }
    }
}

impl Place {
    pub(crate) async fn new(host: SocketAddr, setting: Setting) -> Result<Self> {
        let upstream = Upstream::start("http").await?;
        let mut limited = cluster("tcp", host);
        limited["circuit_breakers"] = json!({"thresholds": [
            {"max_connections": setting.limit, "max_pending_requests": 10_000},
        ]});
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("tcp.log");
        let format = "%RESPONSE_FLAGS% %UPSTREAM_HOST% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\n";
        let proxy = typed(
            "filters.network.tcp_proxy.v3.TcpProxy",
            json!({
                "stat_prefix": "t", "cluster": "tcp", "max_connect_attempts": setting.attempts,
                "access_log": [typed("access_loggers.file.v3.FileAccessLog", json!({
                    "path": log, "log_format": {"text_format_source": {"inline_string": format}},
                }))],
            }),
        );
        let listener = json!({
            "name": "main",
            "stat_prefix": "main",
            "address": socket("127.0.0.1", 0),
            "listener_filters": [typed("filters.listener.http_inspector.v3.HttpInspector", json!({}))],
            "listener_filters_timeout": setting.timeout,
            "continue_on_listener_filters_timeout": true,
            "metadata": {"filter_metadata": {"outrigger.protocol_choice": setting.choice}},
            "filter_chains": [
                {
                    "filter_chain_match": {"application_protocols": ["http/1.0", "http/1.1", "h2c"]},
                    "filters": [http("h", "http")],
                },
                {"filters": [proxy]},
            ],
        });
        let config = json!({
            "admin": {"address": socket("127.0.0.1", 0)},
            "static_resources": {
                "listeners": [listener],
                "clusters": [
                    cluster("http", upstream.address()),
                    limited,
                ],
            },
        });
        let proxy = Proxy::start_in(Kind::Outrigger, &config.to_string(), folder, &[]).await?;
        Ok(Self {
            address: proxy.listener("main").await?,
            proxy,
            http: upstream,
            log,
        })
    }

    async fn talk(&self, steps: &[Step]) -> Result<String> {
        let bytes = talk(self.address, steps, LIMIT).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn stat(&self, name: &str) -> Result<u64> {
        kit::stat(&self.proxy, name).await
    }

    pub(crate) async fn wait_for(&self, name: &str, wanted: u64) -> Result<()> {
        kit::wait_for(&self.proxy, name, wanted).await
    }

    /// Waits until `listener.main.protocol_choice` has these values.
    pub(crate) async fn wait_choices(&self, wanted: &[(&str, u64)]) -> Result<()> {
        for (name, wanted) in wanted {
            let name = format!("listener.main.protocol_choice.{name}");
            self.wait_for(&name, *wanted).await?;
        }
        Ok(())
    }

    /// Waits until nothing is open any more, and no permit is held.
    pub(crate) async fn wait_idle(&self) -> Result<()> {
        for gauge in [
            "listener.main.downstream_cx_active",
            "listener.main.downstream_pre_cx_active",
            "cluster.tcp.upstream_cx_active",
            "cluster.tcp.upstream_rq_active",
            "cluster.tcp.upstream_rq_pending_active",
        ] {
            self.wait_for(gauge, 0).await?;
        }
        Ok(())
    }

    async fn wait_lines(&self, wanted: &[&str]) -> Result<()> {
        wait::until("the access log", LIMIT, async || {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            ensure!(lines == wanted, "{lines:?}, not {wanted:?}");
            Ok(())
        })
        .await
    }
}

fn hears(greeting: &str) -> [Step; 4] {
    [
        Step::WaitFor(greeting.to_owned()),
        Step::Send("hello".to_owned()),
        Step::WaitFor("hello".to_owned()),
        Step::Finish,
    ]
}

#[test]
fn a_host_that_speaks_first_is_heard_and_learned() -> Result<()> {
    block_on(async {
        let host = TcpHost::start("host", Speaks::First).await?;
        let place = Place::new(host.address(), Setting::default()).await?;
        for _ in 0..3 {
            place.talk(&hears("host:")).await?;
        }
        place
            .wait_choices(&[
                ("server_first", 3),
                ("connected_early", 3),
                ("learned", 2),
                ("unused", 0),
                ("timeout", 0),
            ])
            .await?;
        place.wait_idle().await?;
        for (name, wanted) in [
            ("cluster.tcp.upstream_cx_total", 3),
            ("cluster.tcp.upstream_rq_total", 3),
            ("cluster.tcp.upstream_rq_pending_total", 3),
            ("cluster.tcp.upstream_cx_rx_bytes_total", 30),
            ("cluster.tcp.upstream_cx_tx_bytes_total", 15),
            ("tcp.t.downstream_cx_total", 3),
            ("listener.main.downstream_cx_total", 3),
            ("listener.main.downstream_pre_cx_timeout", 0),
        ] {
            place.wait_for(name, wanted).await?;
        }
        let line = format!("- {} 5 10 1", host.address());
        place.wait_lines(&[&line, &line, &line]).await
    })
}

#[test]
fn who_speaks_http_where_hosts_spoke_first_is_routed_and_the_host_forgotten() -> Result<()> {
    block_on(async {
        let host = TcpHost::start("host", Speaks::First).await?;
        // A while that no client keeps silent for here, unless it waits.
        let setting = Setting {
            choice: json!({"connect_after": "0.5s"}),
            ..Setting::default()
        };
        let place = Place::new(host.address(), setting).await?;
        place.talk(&hears("host:")).await?;
        place.wait_choices(&[("server_first", 1)]).await?;
        // Its bytes may be there in time or not: then the host speaks first, and is heard by an HTTP client.
        let mut asked = 0;
        while place.stat("listener.main.protocol_choice.http").await? == 0 {
            asked += 1;
            ensure!(asked < 200, "never taken for HTTP");
            let steps = [Step::Send(REQUEST.to_owned()), Step::WaitClose];
            place.talk(&steps).await?;
        }
        ensure!(place.http.take_received().len() == 1);
        let learned = place.stat("listener.main.protocol_choice.learned").await?;
        place.talk(&hears("host:")).await?;
        place.wait_choices(&[("learned", learned)]).await?;
        // And learned again.
        place.talk(&hears("host:")).await?;
        place.wait_choices(&[("learned", learned + 1)]).await?;
        place.wait_idle().await
    })
}

#[test]
fn nothing_is_learned_for_no_time() -> Result<()> {
    block_on(async {
        let host = TcpHost::start("host", Speaks::First).await?;
        let setting = Setting {
            choice: json!({"learn_for": "0s"}),
            ..Setting::default()
        };
        let place = Place::new(host.address(), setting).await?;
        for _ in 0..2 {
            place.talk(&hears("host:")).await?;
        }
        place
            .wait_choices(&[("server_first", 2), ("connected_early", 2), ("learned", 0)])
            .await
    })
}

#[test]
fn a_late_request_is_routed_and_the_host_gets_no_byte() -> Result<()> {
    block_on(async {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let place = Place::new(host.local_addr()?, Setting::default()).await?;
        let mut client = TcpStream::connect(place.address).await?;
        let (mut connected, _) = host.accept().await?;
        place.wait_choices(&[("connected_early", 1)]).await?;
        ensure!(place.stat("cluster.tcp.upstream_rq_total").await? == 0);
        client.write_all(REQUEST.as_bytes()).await?;
        let mut reply = String::new();
        client.read_to_string(&mut reply).await?;
        ensure!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        ensure!(place.http.take_received().len() == 1);
        let mut got = Vec::new();
        tokio::time::timeout(LIMIT, connected.read_to_end(&mut got)).await??;
        ensure!(got.is_empty(), "{got:?}");
        place
            .wait_choices(&[("http", 1), ("unused", 1), ("server_first", 0)])
            .await?;
        place.wait_idle().await?;
        for (name, wanted) in [
            ("cluster.tcp.upstream_cx_total", 1),
            ("cluster.tcp.upstream_cx_destroy_local", 1),
            ("cluster.tcp.upstream_cx_destroy_remote", 0),
            ("cluster.tcp.upstream_cx_destroy_with_active_rq", 0),
            ("cluster.tcp.upstream_rq_total", 0),
            ("tcp.t.downstream_cx_total", 0),
        ] {
            place.wait_for(name, wanted).await?;
        }
        Ok(())
    })
}

#[test]
fn an_early_connection_is_used_when_the_client_speaks_no_http() -> Result<()> {
    block_on(async {
        let host = TcpHost::start("host", Speaks::Echo).await?;
        let place = Place::new(host.address(), Setting::default()).await?;
        let mut client = TcpStream::connect(place.address).await?;
        place.wait_choices(&[("connected_early", 1)]).await?;
        client.write_all(b"hello there\n").await?;
        client.shutdown().await?;
        let mut reply = String::new();
        client.read_to_string(&mut reply).await?;
        ensure!(reply == "host:hello there\n", "{reply}");
        place
            .wait_choices(&[("tcp", 1), ("unused", 0), ("connected_early", 1)])
            .await?;
        place.wait_for("cluster.tcp.upstream_cx_total", 1).await?;
        place.wait_for("cluster.tcp.upstream_rq_total", 1).await?;
        place.wait_idle().await
    })
}

#[test]
fn who_speaks_at_once_causes_no_needless_connection() -> Result<()> {
    block_on(async {
        let host = TcpHost::start("host", Speaks::Echo).await?;
        let setting = Setting {
            choice: json!({"connect_after": "100s"}),
            ..Setting::default()
        };
        let place = Place::new(host.address(), setting).await?;
        for _ in 0..20 {
            let steps = [Step::Send(REQUEST.to_owned()), Step::WaitClose];
            let reply = place.talk(&steps).await?;
            ensure!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        }
        place
            .wait_choices(&[("http", 20), ("connected_early", 0)])
            .await?;
        ensure!(place.stat("cluster.tcp.upstream_cx_total").await? == 0);
        Ok(())
    })
}

#[test]
fn where_nobody_speaks_the_connection_goes_on_after_the_timeout() -> Result<()> {
    block_on(async {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let setting = Setting {
            timeout: "0.05s",
            ..Setting::default()
        };
        let place = Place::new(host.local_addr()?, setting).await?;
        let mut client = TcpStream::connect(place.address).await?;
        let (mut connected, _) = host.accept().await?;
        place
            .wait_choices(&[("timeout", 1), ("connected_early", 1), ("unused", 0)])
            .await?;
        place
            .wait_for("listener.main.downstream_pre_cx_timeout", 1)
            .await?;
        // Even HTTP is bytes by now.
        client.write_all(REQUEST.as_bytes()).await?;
        let mut got = vec![0; REQUEST.len()];
        connected.read_exact(&mut got).await?;
        ensure!(got == REQUEST.as_bytes());
        connected.write_all(b"late greeting").await?;
        let mut heard = [0; 13];
        client.read_exact(&mut heard).await?;
        ensure!(&heard == b"late greeting");
        drop((client, connected));
        place.wait_idle().await?;
        place.wait_for("cluster.tcp.upstream_cx_total", 1).await
    })
}

#[test]
fn a_client_that_only_listens_hears_the_host() -> Result<()> {
    block_on(async {
        let host = TcpHost::start("host", Speaks::First).await?;
        let place = Place::new(host.address(), Setting::default()).await?;
        let said = place.talk(&[Step::Finish, Step::WaitClose]).await?;
        ensure!(said == "host:", "{said:?}");
        place.wait_idle().await
    })
}

#[test]
fn a_host_that_refuses_is_tried_as_often_as_it_may_be() -> Result<()> {
    block_on(async {
        let host = Refused::reserve()?;
        let setting = Setting {
            timeout: "0.3s",
            attempts: 3,
            ..Setting::default()
        };
        let place = Place::new(host.address(), setting).await?;
        let said = place.talk(&[Step::WaitClose]).await?;
        ensure!(said.is_empty(), "{said:?}");
        place
            .wait_choices(&[("timeout", 1), ("connected_early", 1)])
            .await?;
        place.wait_idle().await?;
        for (name, wanted) in [
            ("cluster.tcp.upstream_cx_connect_fail", 3),
            ("cluster.tcp.upstream_cx_connect_attempts_exceeded", 1),
            ("tcp.t.downstream_cx_total", 1),
        ] {
            place.wait_for(name, wanted).await?;
        }
        let line = format!("UF,URX {} 0 0 3", host.address());
        place.wait_lines(&[&line]).await
    })
}

#[test]
fn where_a_host_refuses_http_is_still_routed() -> Result<()> {
    block_on(async {
        let host = Refused::reserve()?;
        let place = Place::new(host.address(), Setting::default()).await?;
        let mut client = TcpStream::connect(place.address).await?;
        place
            .wait_for("cluster.tcp.upstream_cx_connect_fail", 1)
            .await?;
        client.write_all(REQUEST.as_bytes()).await?;
        let mut reply = String::new();
        client.read_to_string(&mut reply).await?;
        ensure!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        place.wait_choices(&[("http", 1), ("unused", 1)]).await?;
        place.wait_idle().await
    })
}

#[test]
fn a_full_cluster_gets_no_early_connection_and_refuses_as_ever() -> Result<()> {
    block_on(async {
        let host = TcpHost::start("host", Speaks::First).await?;
        let setting = Setting {
            timeout: "0.1s",
            limit: 1,
            ..Setting::default()
        };
        let place = Place::new(host.address(), setting).await?;
        let mut first = TcpStream::connect(place.address).await?;
        let mut greeting = [0; 5];
        first.read_exact(&mut greeting).await?;
        let said = place.talk(&[Step::WaitClose]).await?;
        ensure!(said.is_empty(), "{said:?}");
        place
            .wait_choices(&[("connected_early", 1), ("timeout", 1)])
            .await?;
        place
            .wait_for("cluster.tcp.upstream_cx_overflow", 1)
            .await?;
        place.wait_lines(&["UO - 0 0 0"]).await?;
        // A request is none of its business.
        let steps = [Step::Send(REQUEST.to_owned()), Step::WaitClose];
        let reply = place.talk(&steps).await?;
        ensure!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        place
            .wait_for("cluster.tcp.upstream_cx_overflow", 1)
            .await?;
        drop(first);
        place.wait_idle().await
    })
}

#[test]
fn a_host_that_closes_without_a_word_closes_the_client() -> Result<()> {
    block_on(async {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let setting = Setting {
            timeout: "0.1s",
            ..Setting::default()
        };
        let place = Place::new(host.local_addr()?, setting).await?;
        let hang_up = async {
            host.accept().await?;
            anyhow::Ok(())
        };
        let steps = [Step::WaitClose];
        let (said, hung_up) = tokio::join!(place.talk(&steps), hang_up);
        hung_up?;
        ensure!(said?.is_empty());
        place
            .wait_choices(&[("timeout", 1), ("server_first", 0)])
            .await?;
        place.wait_idle().await
    })
}
