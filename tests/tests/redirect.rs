//! `outrigger redirect` in real network namespaces: a pod with the rules, and another machine beside it.
//!
//! It needs root, `ip` and one of `nft` and `iptables`; what cannot be tried is said and left out.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use outrigger_tests::proxy::binary;
use socket2::{Domain, SockRef, Socket, Type};

const TIMEOUT: Duration = Duration::from_secs(5);
/// The pod's address and the other machine's, for each family.
const ADDRESSES: [(&str, &str); 2] = [("10.77.0.2", "10.77.0.1"), ("fd77::2", "fd77::1")];

fn run(program: &str, args: &[&str]) -> Result<Output> {
    Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("{program} cannot be started"))
}

fn done(program: &str, args: &[&str]) -> Result<String> {
    let output = run(program, args)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {said}{error}", args.join(" "));
    }
    Ok(said)
}

/// Two namespaces with a cable between them; both go when this is dropped.
struct Place {
    pod: String,
    outside: String,
}

impl Place {
    fn new(name: &str) -> Result<Self> {
        // Tests of one process run beside each other.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let place = Self {
            pod: format!("outrigger-{id}-{name}-pod"),
            outside: format!("outrigger-{id}-{name}-out"),
        };
        for namespace in [&place.pod, &place.outside] {
            done("ip", &["netns", "add", namespace])?;
            done("ip", &["-n", namespace, "link", "set", "lo", "up"])?;
        }
        done(
            "ip",
            &[
                "-n",
                &place.pod,
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                &place.outside,
            ],
        )?;
        for (pod, outside) in ADDRESSES {
            let prefix = if pod.contains(':') { 64 } else { 24 };
            for (namespace, address) in [(&place.pod, pod), (&place.outside, outside)] {
                let address = format!("{address}/{prefix}");
                let mut args = vec!["-n", namespace, "addr", "add", &address, "dev", "eth0"];
                args.extend((prefix == 64).then_some("nodad"));
                done("ip", &args)?;
            }
        }
        for namespace in [&place.pod, &place.outside] {
            done("ip", &["-n", namespace, "link", "set", "eth0", "up"])?;
        }
        for (_, outside) in ADDRESSES {
            done(
                "ip",
                &["-n", &place.pod, "route", "add", "default", "via", outside],
            )?;
        }
        Ok(place)
    }

    fn redirect(&self, args: &[&str]) -> Result<String> {
        let program = binary("outrigger")?;
        let program = program.to_str().context("a path that is text")?;
        let mut all = vec!["netns", "exec", &self.pod, program, "redirect"];
        all.extend(args);
        done("ip", &all)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for namespace in [&self.pod, &self.outside] {
            drop(run("ip", &["netns", "del", namespace]));
        }
    }
}

/// Runs something in a network namespace, on a thread of its own.
fn inside<T: Send>(namespace: &str, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                let file = File::open(format!("/run/netns/{namespace}"))?;
                setns(file, CloneFlags::CLONE_NEWNET)?;
                what()
            })
            .join()
            .unwrap_or_else(|_| bail!("the thread in {namespace} panicked"))
    })
}

/// A listener that tells each client its name; transparent, so that TPROXY may give it connections.
struct Listener(Socket);

impl Listener {
    fn open(namespace: &str, address: &str, port: u16) -> Result<Self> {
        let address: IpAddr = address.parse()?;
        inside(namespace, move || {
            let socket = Socket::new(
                Domain::for_address((address, port).into()),
                Type::STREAM,
                None,
            )?;
            match address {
                IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
                IpAddr::V6(_) => socket.set_only_v6(true)?,
            }
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(address, port).into())?;
            socket.listen(16)?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            Ok(Self(socket))
        })
    }

    /// The next connection: what its client wanted to reach, and who the client is.
    fn next(&self) -> Result<(SocketAddr, SocketAddr)> {
        let (stream, from) = self.0.accept()?;
        let from = from.as_socket().context("an address of IP")?;
        let socket = SockRef::from(&stream);
        let original = match from {
            SocketAddr::V4(_) => socket.original_dst_v4(),
            SocketAddr::V6(_) => socket.original_dst_v6(),
        };
        // Without a rewritten destination it is the socket's own.
        let original = original.or_else(|_| stream.local_addr())?;
        (&stream).write_all(b"hello")?;
        Ok((original.as_socket().context("an address of IP")?, from))
    }
}

fn connect(namespace: &str, to: SocketAddr) -> Result<()> {
    inside(namespace, move || {
        let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut word = [0; 5];
        stream.read_exact(&mut word)?;
        ensure!(&word == b"hello", "{word:?}");
        Ok(())
    })
    .with_context(|| format!("{to} from {namespace}"))
}

/// A connection arrives at a listener, which is told what it was meant for.
fn arrives(from: &str, to: SocketAddr, at: &Listener) -> Result<()> {
    thread::scope(|scope| {
        let client = scope.spawn(|| connect(from, to));
        let (original, _) = at.next().with_context(|| format!("{to} from {from}"))?;
        client
            .join()
            .unwrap_or_else(|_| bail!("the client panicked"))?;
        ensure!(original == to, "{to} arrives as {original}");
        Ok(())
    })
}

/// What can be tried here.
fn backends(test: &str) -> Vec<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("{test}: SKIPPED, since it needs root");
        return Vec::new();
    }
    if let Err(error) = Place::new("try").map(drop) {
        eprintln!("{test}: SKIPPED, since network namespaces cannot be made: {error:#}");
        return Vec::new();
    }
    [("nft", "nft"), ("iptables", "iptables-restore")]
        .into_iter()
        .filter(|(_, tool)| {
            let is_there = run(tool, &["--version"]).is_ok();
            if !is_there {
                eprintln!("{test}: SKIPPED in part, since {tool} is not installed");
            }
            is_there
        })
        .map(|(backend, _)| backend)
        .collect()
}

#[test]
fn connections_go_to_the_sidecar_and_back() -> Result<()> {
    for backend in backends("connections_go_to_the_sidecar_and_back") {
        for mode in ["redirect", "tproxy"] {
            let place = Place::new(&format!("{backend}-{mode}"))?;
            let flags = [
                "--backend",
                backend,
                "--mode",
                mode,
                "--exclude-outbound-ports=81",
            ];
            let flags = [flags.as_slice(), &["--exclude-inbound-ports=8081"]].concat();
            place.redirect(&flags)?;
            let report = place.redirect(&[flags.as_slice(), &["--then-verify"]].concat())?;
            ensure!(report.matches("keeps its address").count() == 2, "{report}");
            for (pod, outside) in ADDRESSES {
                let all = if pod.contains(':') { "::" } else { "0.0.0.0" };
                if mode == "tproxy" && pod.contains(':') {
                    // Setting IPV6_TRANSPARENT takes unsafe code here.
                    continue;
                }
                traffic(&place, pod, outside, all)
                    .with_context(|| format!("{backend} {mode} {pod}"))?;
            }
            let report = place.redirect(&[flags.as_slice(), &["--verify"]].concat())?;
            ensure!(report.matches("keeps its address").count() == 2, "{report}");
            place.redirect(&["--backend", backend, "--undo"])?;
            let listener = Listener::open(&place.pod, "0.0.0.0", 8080)?;
            arrives(&place.outside, "10.77.0.2:8080".parse()?, &listener)?;
        }
    }
    Ok(())
}

fn traffic(place: &Place, pod: &str, outside: &str, all: &str) -> Result<()> {
    let Place {
        pod: in_pod,
        outside: in_outside,
    } = place;
    let address = |host: &str, port| anyhow::Ok(SocketAddr::new(host.parse()?, port));
    let outbound = Listener::open(in_pod, all, 15001)?;
    let inbound = Listener::open(in_pod, all, 15006)?;
    arrives(in_pod, address(outside, 80)?, &outbound)?;
    arrives(in_outside, address(pod, 8080)?, &inbound)?;

    // What is excluded, and the sidecar's own pages, get there themselves.
    let ready = Listener::open(in_pod, all, 15021)?;
    arrives(in_outside, address(pod, 15021)?, &ready)?;
    let excluded = Listener::open(in_pod, all, 8081)?;
    arrives(in_outside, address(pod, 8081)?, &excluded)?;
    let server = Listener::open(in_outside, all, 81)?;
    arrives(in_pod, address(outside, 81)?, &server)?;

    // Between the pod's containers, over loopback and by its own address.
    let app = Listener::open(in_pod, all, 9000)?;
    let loopback = if pod.contains(':') {
        "::1"
    } else {
        "127.0.0.1"
    };
    arrives(in_pod, address(loopback, 9000)?, &app)?;
    arrives(in_pod, address(pod, 9000)?, &app)?;

    // The sidecar's own connections go out; to its pod they come in again.
    let world = Listener::open(in_outside, all, 82)?;
    as_proxy(in_pod, outside, 82, &world)?;
    as_proxy(in_pod, pod, 9000, &inbound)
}

fn as_proxy(namespace: &str, host: &str, port: u16, at: &Listener) -> Result<()> {
    let script = format!("exec 3<>/dev/tcp/{host}/{port} && head -c 5 <&3");
    let args = [
        "netns",
        "exec",
        namespace,
        "setpriv",
        "--reuid=1337",
        "--regid=1337",
        "--clear-groups",
    ];
    thread::scope(|scope| {
        let args = [args.as_slice(), &["timeout", "5", "bash", "-c", &script]].concat();
        let client = scope.spawn(move || done("ip", &args));
        let (original, _) = at
            .next()
            .with_context(|| format!("the sidecar's own to {host}"))?;
        let said = client
            .join()
            .unwrap_or_else(|_| bail!("the client panicked"))?;
        ensure!(
            said == "hello" && original.port() == port,
            "{said} {original}"
        );
        Ok(())
    })
}

#[test]
fn verification_names_what_is_missing() -> Result<()> {
    for backend in backends("verification_names_what_is_missing") {
        let place = Place::new(&format!("{backend}-verify"))?;
        place.redirect(&["--backend", backend, "--exclude-outbound-ports=25"])?;
        // Another configuration than the one in force.
        let flags = [
            "--backend",
            backend,
            "--verify",
            "--exclude-outbound-ports=25,26",
        ];
        let Err(error) = place.redirect(&flags) else {
            bail!("{backend}: a missing rule was not found");
        };
        let text = format!("{error:#}");
        ensure!(
            text.contains("wrong: missing") && text.contains("dport 26"),
            "{text}"
        );
        ensure!(text.contains("keeps its address"), "{text}");
        // The one who verifies is root.
        let flags = [
            "--backend",
            backend,
            "--then-verify",
            "--exclude-outbound-users=0",
        ];
        let report = place.redirect(&flags)?;
        ensure!(report.contains("user 0, as whom this runs"), "{report}");
        place.redirect(&["--backend", backend, "--undo"])?;
        let Err(error) = place.redirect(&["--backend", backend, "--verify"]) else {
            bail!("{backend}: missing rules were not found");
        };
        let text = format!("{error:#}");
        ensure!(text.contains("does not get to port 15001"), "{text}");
    }
    Ok(())
}
