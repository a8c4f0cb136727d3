//! What the sidecar's container runs around its life where it is an ordinary one: it holds the
//! application's start, and drains before it stops.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::spec::{METRICS_PORT, READY_PORT};

const PAUSE: Duration = Duration::from_millis(200);
const ANSWER: Duration = Duration::from_secs(2);
const LONGEST: u64 = 1024 * 1024;
/// An application that just has no connection may open another.
const QUIET: Duration = Duration::from_secs(3);

/// Waits until the sidecar is ready to carry traffic.
///
/// # Errors
/// When it is not within the time.
pub fn wait(port: u16, timeout: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + timeout;
    loop {
        let last = match ask("GET", port, "/healthz/ready") {
            Ok((200, _)) => return Ok(()),
            Ok((status, body)) => format!("it answers {status} {}", body.trim()),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            bail!("the sidecar is not ready after {timeout:?}: {last}");
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Asks the sidecar to end: in order, as if it got SIGTERM.
///
/// # Errors
/// When the sidecar cannot be asked.
pub fn quit(admin: u16) -> anyhow::Result<()> {
    match ask("POST", admin, "/quitquitquit")? {
        (200, _) => Ok(()),
        (status, body) => bail!("it answers {status} {}", body.trim()),
    }
}

/// Asks the sidecar to take no new inbound connections, and waits until the application has had none for a
/// while, in or out.
///
/// # Errors
/// When the sidecar cannot be asked.
pub fn drain(admin: u16, timeout: Duration) -> anyhow::Result<()> {
    drain_until(admin, timeout, QUIET)
}

fn drain_until(admin: u16, timeout: Duration, quiet: Duration) -> anyhow::Result<()> {
    let page = "/drain_listeners?inboundonly&graceful";
    let (status, body) = ask("POST", admin, page)?;
    if status != 200 {
        bail!("the sidecar refuses to drain: {status} {}", body.trim());
    }
    let end = Instant::now() + timeout;
    let mut since = None;
    while Instant::now() < end {
        match open_connections(admin) {
            Some(0) => {
                let since: Instant = *since.get_or_insert_with(Instant::now);
                if since.elapsed() >= quiet {
                    return Ok(());
                }
            }
            Some(_) => since = None,
            // It has gone already.
            None => return Ok(()),
        }
        std::thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// Connections of all listeners but the admin's and our own pages'.
fn open_connections(admin: u16) -> Option<u64> {
    let own = [READY_PORT, METRICS_PORT].map(|port| format!("_{port}."));
    let page = "/stats?filter=^listener\\..*downstream_cx_active$";
    let (status, body) = ask("GET", admin, page).ok()?;
    (status == 200).then(|| {
        body.lines()
            .filter(|line| line.starts_with("listener.") && !line.starts_with("listener.admin."))
            .filter(|line| !own.iter().any(|port| line.contains(port)))
            .filter_map(|line| line.rsplit_once(": ")?.1.trim().parse::<u64>().ok())
            .sum()
    })
}

fn ask(method: &str, port: u16, page: &str) -> anyhow::Result<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)
        .with_context(|| format!("can't reach the sidecar at {address}"))?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(
        stream,
        "{method} {page} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((
        status.context("the sidecar's answer is no HTTP")?,
        body.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        net::TcpListener,
        thread::{self, JoinHandle},
    };

    use super::*;

    /// A sidecar that gives these answers, one for each connection; it returns what it was asked.
    fn sidecar(answers: &'static [(u16, &'static str)]) -> (u16, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = thread::spawn(move || {
            let mut asked = Vec::new();
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(&stream).lines();
                asked.push(lines.next().unwrap().unwrap());
                while !lines.next().unwrap().unwrap().is_empty() {}
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}"
                )
                .unwrap();
            }
            asked
        });
        (port, asked)
    }

    #[test]
    fn the_start_is_held_until_the_sidecar_is_ready() {
        let (port, asked) = sidecar(&[(503, "INITIALIZING\n"), (200, "LIVE\n")]);
        wait(port, Duration::from_secs(20)).unwrap();
        assert_eq!(asked.join().unwrap(), ["GET /healthz/ready HTTP/1.1"; 2]);
    }

    #[test]
    fn a_sidecar_that_is_never_ready_is_named() {
        let (port, asked) = sidecar(&[(503, "INITIALIZING\n")]);
        let error = wait(port, Duration::ZERO).unwrap_err().to_string();
        assert!(error.ends_with("it answers 503 INITIALIZING"), "{error}");
        asked.join().unwrap();
        let error = wait(port, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("can't reach the sidecar"), "{error}");
    }

    #[test]
    fn draining_waits_for_open_connections() {
        let busy = "listener.0.0.0.0_15006.downstream_cx_active: 2\n\
                    listener.0.0.0.0_15021.downstream_cx_active: 1\n";
        let idle = "listener.admin.downstream_cx_active: 1\n\
                    listener.0.0.0.0_15006.downstream_cx_active: 0\n\
                    listener.0.0.0.0_15090.downstream_cx_active: 1\n";
        let answers = vec![(200, "OK\n"), (200, busy), (200, idle)].leak();
        let (port, asked) = sidecar(answers);
        drain_until(port, Duration::from_secs(20), Duration::ZERO).unwrap();
        let asked = asked.join().unwrap();
        assert_eq!(
            asked[0],
            "POST /drain_listeners?inboundonly&graceful HTTP/1.1"
        );
        assert_eq!(asked.len(), 3);
    }
}
