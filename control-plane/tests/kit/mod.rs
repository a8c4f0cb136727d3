//! A control plane on free ports over a temporary directory, and simulated proxies.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test binary uses its part"
)]

pub mod proxy;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Parser;
use outrigger_control_plane::{Addresses, Args, ControlPlane};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

pub struct Kit {
    pub directory: tempfile::TempDir,
    pub addresses: Addresses,
    control_plane: ControlPlane,
}

impl Kit {
    /// Starts over these files.
    pub async fn start(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("config")).unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join("config").join(name), text).unwrap();
        }
        let control_plane = ControlPlane::start(&args(directory.path())).await.unwrap();
        Self {
            directory,
            addresses: control_plane.addresses(),
            control_plane,
        }
    }

    /// Replaces a file as editors do: whole.
    pub fn write(&self, name: &str, text: &str) {
        let config = self.directory.path().join("config");
        std::fs::write(config.join(".new"), text).unwrap();
        std::fs::rename(config.join(".new"), config.join(name)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("config").join(name)
    }

    pub async fn api(&self, path: &str) -> Value {
        let (status, body) = get(self.addresses.api, "api", path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Asks until the answer is right.
    pub async fn api_until(&self, path: &str, right: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.api(path).await;
            if right(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} is still {answer:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn stop(self) {
        self.control_plane.stop().await.unwrap();
    }
}

pub fn args(directory: &Path) -> Args {
    let path = |name: &str| directory.join(name).into_os_string();
    let mut line = vec![
        "control-plane".into(),
        "--config-dir".into(),
        path("config"),
    ];
    line.extend(["--data-dir".into(), path("data")]);
    for port in ["xds", "metrics", "api", "otlp-grpc", "otlp-http", "jaeger"] {
        line.extend([format!("--{port}-port").into(), "0".into()]);
    }
    Cli::parse_from(line).args
}

/// One HTTP/1 request on its own connection.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> (u16, String) {
    let (status, _, body) = request(address, host, path, "").await.unwrap();
    (status, body)
}

/// Status, head and body.
pub async fn request(
    address: SocketAddr,
    host: &str,
    path: &str,
    headers: &str,
) -> std::io::Result<(u16, String, String)> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    // Not to the end of the connection: a server may wait for the client to close first.
    while !is_whole(&answer) && stream.read_buf(&mut answer).await? > 0 {}
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let body = if head.contains("transfer-encoding: chunked") {
        dechunk(body)
    } else {
        body.into()
    };
    Ok((status, head.to_owned(), body))
}

fn is_whole(answer: &[u8]) -> bool {
    let answer = String::from_utf8_lossy(answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    head.to_ascii_lowercase()
        .lines()
        .find_map(|line| {
            line.strip_prefix("content-length: ")?
                .trim()
                .parse::<usize>()
                .ok()
        })
        .is_some_and(|length| body.len() >= length)
}

fn dechunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        let Some(chunk) = rest.get(..size) else { break };
        whole.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}
