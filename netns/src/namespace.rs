//! One namespace, and how things are run in it.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, bail};

use crate::PROXY_USER;

/// Where `ip netns exec` looks for files that stand in for those of `/etc`.
const ETC: &str = "/etc/netns";

/// A network namespace with files of its own in `/etc`; it goes when this is dropped.
///
/// What still runs in it then keeps its network until its end.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    addresses: Vec<IpAddr>,
}

impl Namespace {
    pub(crate) fn new(name: &str, addresses: Vec<IpAddr>) -> anyhow::Result<Self> {
        run("ip", &["netns", "add", name], Piped::Nothing)?;
        let this = Self {
            name: name.to_owned(),
            addresses,
        };
        let etc = Path::new(ETC).join(name);
        fs::create_dir_all(&etc).with_context(|| etc.display().to_string())?;
        // A name that is not in `hosts` is unknown at once.
        let resolver = "# no DNS here\nnameserver 127.0.0.1\noptions attempts:1 timeout:1\n";
        fs::write(etc.join("resolv.conf"), resolver)?;
        this.write_hosts("")?;
        Ok(this)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses on the bridge: IPv4, and IPv6 if the machine has that.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Replaces its `/etc/hosts`; what is started from then on sees it, and what runs already, too.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_hosts(&self, lines: &str) -> anyhow::Result<()> {
        let path = Path::new(ETC).join(&self.name).join("hosts");
        // The same file, since it is mounted over `/etc/hosts` of what runs.
        fs::write(
            &path,
            format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{lines}"),
        )
        .with_context(|| path.display().to_string())
    }

    /// The words that run a program in it, before the program's own. It becomes the program.
    pub fn exec(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name]
            .map(str::to_owned)
            .to_vec()
    }

    /// The same for a program that is a sidecar, with no more rights than one has. `is_transparent` is one that
    /// TPROXY gives connections to.
    pub fn exec_sidecar(&self, is_transparent: bool) -> Vec<String> {
        let user = PROXY_USER.to_string();
        let rights = if is_transparent {
            [
                "--inh-caps=-all,+net_admin",
                "--ambient-caps=-all,+net_admin",
            ]
        } else {
            ["--inh-caps=-all", "--ambient-caps=-all"]
        };
        let mut words = self.exec();
        words.extend(
            [
                "setpriv",
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
            ]
            .map(str::to_owned),
        );
        // A change of user takes back what an outer `setpriv` asked for.
        words.extend(["--pdeathsig", "KILL"].map(str::to_owned));
        words.extend(rights.map(str::to_owned));
        words
    }

    /// A command that runs a program in it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words = self.exec().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(program);
        command
    }

    /// A handle for [`crate::enter`] and [`inside`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn open(&self) -> anyhow::Result<fs::File> {
        let path = Path::new("/run/netns").join(&self.name);
        fs::File::open(&path).with_context(|| path.display().to_string())
    }

    /// Does something in it, on a thread of its own; sockets made there stay in it.
    ///
    /// # Errors
    /// Those of what is done.
    pub fn inside<T: Send>(
        &self,
        what: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        inside(self.open()?, what).with_context(|| self.name.clone())
    }

    pub(crate) fn ip_batch(&self, lines: &str) -> anyhow::Result<()> {
        let args = ["-n", &self.name, "-batch", "-"];
        run("ip", &args, Piped::Text(lines)).map(drop)
    }
}

/// Does something in the namespace of that handle, on a thread of its own; sockets made there stay in it.
///
/// # Errors
/// Those of what is done.
pub fn inside<T: Send>(
    namespace: fs::File,
    what: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(move || {
                crate::enter(namespace)?;
                what()
            })
            .join()
            .unwrap_or_else(|_| bail!("the thread in a network namespace panicked"))
    })
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

pub(crate) fn remove(name: &str) {
    // What is gone already needs no removal.
    drop(run("ip", &["netns", "del", name], Piped::Nothing));
    drop(fs::remove_dir_all(Path::new(ETC).join(name)));
}

/// What a command reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piped<'a> {
    Nothing,
    Text(&'a str),
}

/// Runs a command to its end; gives what it wrote.
pub(crate) fn run(program: &str, args: &[&str], input: Piped<'_>) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(match input {
            Piped::Nothing => Stdio::null(),
            Piped::Text(_) => Stdio::piped(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("`{program}` cannot be started"))?;
    if let (Piped::Text(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // One that ended early says why, below.
        drop(stdin.write_all(text.as_bytes()));
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!(
            "`{program} {}`: {}",
            args.join(" "),
            String::from_utf8_lossy(&said).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
