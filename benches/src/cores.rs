//! Which core runs what, and how much processor time a process used.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The core of the proxies and the core of load and backend.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Where the measured proxy runs, alone.
    pub proxy: usize,
    /// Where everything else runs.
    pub load: usize,
}

impl Cores {
    /// Takes the first two cores that this process may use.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
        let proxy = cores.next().context("no core")?;
        let load = cores.next();
        ensure!(
            load.is_some(),
            "two cores are needed: one for the proxy, one for the load"
        );
        Ok(Self {
            proxy,
            load: load.unwrap_or(proxy),
        })
    }
}

/// Runs `what` on the load's core, knowing both.
pub fn run<T>(what: impl AsyncFnOnce(Cores) -> Result<T>) -> Result<T> {
    let cores = Cores::choose()?;
    pin(cores.load)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(what(cores))
}

/// Moves the calling thread, and what it starts from now on, to one core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The processor time of all threads of a process so far, in nanoseconds.
pub fn cpu_time(pid: u32) -> Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        total += thread_time(&task?.path()).unwrap_or(0);
    }
    Ok(total)
}

/// The resident memory of a process, in bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = kilobytes.context("no VmRSS")?.parse()?;
    Ok(kilobytes * 1024)
}

/// The first number of `schedstat`: nanoseconds on a core.
fn thread_time(task: &Path) -> Result<u64> {
    let text = fs::read_to_string(task.join("schedstat"))?;
    Ok(text
        .split_whitespace()
        .next()
        .context("empty schedstat")?
        .parse()?)
}
