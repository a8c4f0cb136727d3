//! Network namespaces as pods: a node, which has a bridge, and pods with an address of each family on it.
//!
//! The node is a namespace too, so that nothing of the machine's own network changes. What is not on the bridge
//! cannot be reached, but there is a way to it: a connection to the address of a service leaves a pod, unless
//! something takes it over, and ends nowhere. Everything is removed when it is dropped; what a process left
//! behind that was killed, is removed by the next one.

mod namespace;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, bail, ensure};

pub use namespace::{Namespace, inside};
use namespace::{Piped, run};

/// The user that sidecars run as; redirection knows them by it.
pub const PROXY_USER: u32 = 1337;

const BRIDGE: &str = "br0";
const PREFIX: &str = "outrigger";
/// Pods have addresses from here on; the node has the first.
const FIRST_POD: u16 = 10;

/// A node with its bridge, and what its pods need.
#[derive(Debug)]
pub struct Network {
    id: String,
    node: Namespace,
    next: u16,
    has_ipv6: bool,
    scratch: PathBuf,
}

/// Why there can be no namespaces here, for people to read.
///
/// # Errors
/// When something is missing; the error says what, and what to do.
pub fn check() -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces need root: run it with sudo"
    );
    for (program, package) in [("ip", "iproute2"), ("setpriv", "util-linux")] {
        run(program, &["--version"], Piped::Nothing).or_else(|_| {
            // Not every `ip` knows the long flag.
            run(program, &["-V"], Piped::Nothing)
                .with_context(|| format!("install {package}, which has `{program}`"))
        })?;
    }
    Network::new().map(drop).context(
        "network namespaces cannot be made here, even by root; a container may lack CAP_SYS_ADMIN",
    )
}

impl Network {
    /// Makes a node without pods.
    ///
    /// # Errors
    /// When the system refuses, with what it said.
    pub fn new() -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let id = format!(
            "{PREFIX}-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        let node = Namespace::new(&format!("{id}-node"), addresses(1, has_ipv6))?;
        let mut batch =
            format!("link add {BRIDGE} type bridge\nlink set {BRIDGE} up\nlink set lo up\n");
        for address in node.addresses() {
            batch += &addr_add(*address, BRIDGE);
        }
        node.ip_batch(&batch)?;
        let scratch = std::env::temp_dir().join(&id);
        fs::create_dir(&scratch).with_context(|| scratch.display().to_string())?;
        Ok(Self {
            id,
            node,
            next: FIRST_POD,
            has_ipv6,
            scratch,
        })
    }

    /// Whether its pods have IPv6 addresses too.
    pub fn has_ipv6(&self) -> bool {
        self.has_ipv6
    }

    /// The node: whoever is in it reaches all pods.
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// Makes a pod; `hosts` are lines for its `/etc/hosts`.
    ///
    /// # Errors
    /// When the system refuses, with what it said.
    pub fn pod(&mut self, name: &str, hosts: &str) -> anyhow::Result<Namespace> {
        let number = self.next;
        self.next += 1;
        let pod = Namespace::new(
            &format!("{}-{name}", self.id),
            addresses(number, self.has_ipv6),
        )?;
        let ours = pod
            .addresses()
            .iter()
            .map(|address| format!("{address} {name}\n"))
            .collect::<String>();
        pod.write_hosts(&format!("{ours}{hosts}"))?;
        self.node.ip_batch(&format!(
            "link add veth{number} type veth peer name eth0 netns {}\nlink set veth{number} master {BRIDGE} up\n",
            pod.name()
        ))?;
        let mut batch = "link set lo up\nlink set eth0 up\n".to_owned();
        for address in pod.addresses() {
            batch += &addr_add(*address, "eth0");
        }
        for node in self.node.addresses() {
            batch += &format!("route add default via {node}\n");
        }
        pod.ip_batch(&batch)?;
        Ok(pod)
    }

    /// A file of the program that any user can start: the same one, or a copy if that is in a place where only
    /// its owner gets to.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn executable(&self, program: &Path) -> anyhow::Result<PathBuf> {
        let user = PROXY_USER.to_string();
        let status = Command::new("setpriv")
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .args(["test", "-x"])
            .arg(program)
            .stdin(Stdio::null())
            .status()
            .context("setpriv cannot be started")?;
        if status.success() {
            return Ok(program.to_owned());
        }
        let name = program.file_name().context("a program is a file")?;
        let copy = self.scratch.join(name);
        if !copy.exists() {
            fs::copy(program, &copy)
                .with_context(|| format!("{} to {}", program.display(), copy.display()))?;
        }
        Ok(copy)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What cannot be removed from the temporary directory is the system's to clean.
        drop(fs::remove_dir_all(&self.scratch));
    }
}

fn addresses(number: u16, has_ipv6: bool) -> Vec<IpAddr> {
    let [high, low] = number.to_be_bytes();
    let mut addresses = vec![Ipv4Addr::new(10, 66, high, low).into()];
    if has_ipv6 {
        addresses.push(Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, number).into());
    }
    addresses
}

fn addr_add(address: IpAddr, device: &str) -> String {
    match address {
        IpAddr::V4(_) => format!("addr add {address}/16 dev {device}\n"),
        // Nobody else can have it, so there is nothing to wait for.
        IpAddr::V6(_) => format!("addr add {address}/64 dev {device} nodad\n"),
    }
}

/// Removes namespaces of processes that are gone.
fn remove_leftovers() {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_prefix('-')?.split('-').next());
        let Some(owner) = owner.filter(|owner| owner.parse::<u32>().is_ok()) else {
            continue;
        };
        if !Path::new("/proc").join(owner).exists() {
            namespace::remove(&name);
        }
    }
}

/// Takes the calling thread to another network namespace; so are threads and processes that it starts from then
/// on. Its sockets stay where they were made.
///
/// # Errors
/// When it may not.
pub fn enter(namespace: fs::File) -> anyhow::Result<()> {
    use nix::sched::{CloneFlags, setns};
    if let Err(error) = setns(namespace, CloneFlags::CLONE_NEWNET) {
        bail!("cannot enter a network namespace: {error}");
    }
    Ok(())
}
