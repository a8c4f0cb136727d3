//! Debian's own servers, unmodified, each in a pod and with a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::Pod;
use crate::mesh::DEADLINE;
use crate::process::Process;
use crate::wait;

/// A user without rights that every Debian has.
const NOBODY: u32 = 65534;

/// Which of these programs are missing here; a test that needs one says so and is skipped.
pub fn installed(test: &str, programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| find(program).is_none())
        .collect();
    if !missing.is_empty() {
        eprintln!("{test}: SKIPPED, since these are not installed: {missing:?}");
    }
    missing.is_empty()
}

/// A program's file: on the path, or where Debian keeps servers and those of PostgreSQL.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql");
    let postgres = versions.into_iter().flatten().flatten();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .chain(postgres.map(|version| version.path().join("bin")))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn program(name: &str) -> Result<String> {
    let file = find(name).with_context(|| format!("{name} is not installed"))?;
    Ok(file.display().to_string())
}

fn as_nobody(words: Vec<String>) -> Vec<String> {
    let id = NOBODY.to_string();
    let user = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"];
    // A change of user takes back what an outer `setpriv` asked for.
    let user = user.into_iter().chain(["--pdeathsig", "KILL"]);
    user.map(str::to_owned).chain(words).collect()
}

/// A directory that belongs to nobody.
fn folder() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
    Ok(folder)
}

/// Waits until a client in the pod itself is served.
async fn serves(pod: &Pod, process: &mut Process, words: &[&str]) -> Result<()> {
    wait::until(&format!("{} to serve", words[0]), DEADLINE, async || {
        process.check_running()?;
        pod.say(words).await.map(drop)
    })
    .await
}

/// nginx over a directory of files.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
    folder: TempDir,
}

impl Nginx {
    /// Starts one on a port, on both families; `/who` tells the client its address and what it asked for.
    pub async fn start(pod: &Pod, port: u16, name: &str) -> Result<Self> {
        let folder = folder()?;
        let path = folder.path().display();
        let config = format!(
            "daemon off;
master_process off;
pid {path}/pid;
error_log stderr;
worker_rlimit_nofile 1024;
events {{}}
http {{
  access_log off;
  client_body_temp_path {path}/body;
  proxy_temp_path {path}/proxy;
  fastcgi_temp_path {path}/fastcgi;
  uwsgi_temp_path {path}/uwsgi;
  scgi_temp_path {path}/scgi;
  server {{
    listen {port};
    listen [::]:{port};
    root {path}/www;
    location = /who {{
      default_type text/plain;
      return 200 \"{name} $remote_addr $host $http_x_request_id\\n\";
    }}
  }}
}}
"
        );
        fs::write(folder.path().join("nginx.conf"), config)?;
        fs::create_dir(folder.path().join("www"))?;
        let words = [
            "-p".to_owned(),
            path.to_string(),
            "-c".to_owned(),
            format!("{path}/nginx.conf"),
        ];
        let words = [
            vec![program("nginx")?, "-e".to_owned(), "stderr".to_owned()],
            words.to_vec(),
        ]
        .concat();
        let mut process = pod.start("nginx", &as_nobody(words))?;
        let url = format!("http://127.0.0.1:{port}/who");
        serves(pod, &mut process, &["curl", "-sf", &url]).await?;
        Ok(Self {
            _process: process,
            folder,
        })
    }

    /// Where a file of the site is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("www").join(name)
    }
}

/// PostgreSQL with an empty database `postgres` and a user of the same name.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    _folder: TempDir,
}

impl Postgres {
    /// Starts one on its own port, 5432.
    pub async fn start(pod: &Pod) -> Result<Self> {
        let folder = folder()?;
        let data = folder.path().join("data").display().to_string();
        let words = [
            "-D",
            &data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
        ];
        let words = [program("initdb")?]
            .into_iter()
            .chain(words.map(str::to_owned));
        let words = as_nobody(words.collect());
        pod.say(&words.iter().map(String::as_str).collect::<Vec<_>>())
            .await?;
        let trust = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
        let rules = Path::new(&data).join("pg_hba.conf");
        let before = fs::read_to_string(&rules)?;
        fs::write(&rules, before + trust)?;
        let sockets = folder.path().display().to_string();
        let words = ["-D", &data, "-k", &sockets, "-h", "*", "-F"];
        let words = [program("postgres")?]
            .into_iter()
            .chain(words.map(str::to_owned));
        let mut process = pod.start("postgres", &as_nobody(words.collect()))?;
        let words = [
            "psql",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-c",
            "select 1",
        ];
        serves(pod, &mut process, &words).await?;
        Ok(Self {
            process,
            _folder: folder,
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its children are in sessions of their own: only it can end them.
        if self
            .process
            .signal(nix::sys::signal::Signal::SIGQUIT)
            .is_ok()
        {
            for _ in 0..200 {
                if !matches!(self.process.exited(), Ok(None)) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

/// gRPC's own library, as a service and as its client.
#[derive(Debug)]
pub struct Grpc {
    _process: Process,
}

impl Grpc {
    /// Starts the service on a port.
    pub async fn start(pod: &Pod, port: u16) -> Result<Self> {
        let mut process = pod.start("grpc", &Self::words("serve", &port.to_string())?)?;
        wait::until("grpc to serve", DEADLINE, async || {
            process.check_running()?;
            pod.connect((std::net::Ipv4Addr::LOCALHOST, port).into())
                .await
                .map(drop)
        })
        .await?;
        Ok(Self { _process: process })
    }

    /// The words that run its client, which prints [`Grpc::ANSWER`].
    pub fn client(target: &str) -> Result<Vec<String>> {
        Self::words("call", target)
    }

    /// What the client prints.
    pub const ANSWER: &str = "hello 01234 INVALID_ARGUMENT\n";

    fn words(what: &str, target: &str) -> Result<Vec<String>> {
        let python = crate::proxy::venv()?.join("bin/python3");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/grpc_echo.py");
        let script = script.display().to_string();
        let python = python.display().to_string();
        Ok(vec![python, script, what.to_owned(), target.to_owned()])
    }
}

/// Redis without files.
#[derive(Debug)]
pub struct Redis {
    _process: Process,
    _folder: TempDir,
}

impl Redis {
    /// Starts one on its own port, 6379.
    pub async fn start(pod: &Pod) -> Result<Self> {
        let folder = folder()?;
        let path = folder.path().display().to_string();
        let words = [
            "--bind",
            "*",
            "-::*",
            "--protected-mode",
            "no",
            "--save",
            "",
            "--dir",
            &path,
        ];
        let words = [program("redis-server")?]
            .into_iter()
            .chain(words.map(str::to_owned));
        let mut process = pod.start("redis", &as_nobody(words.collect()))?;
        let words = ["redis-cli", "-h", "127.0.0.1", "ping"];
        wait::until("redis to serve", DEADLINE, async || {
            process.check_running()?;
            let said = pod.say(&words).await?;
            ensure!(said.contains("PONG"), "{said}");
            Ok(())
        })
        .await?;
        Ok(Self {
            _process: process,
            _folder: folder,
        })
    }
}
