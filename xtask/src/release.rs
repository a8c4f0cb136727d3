//! The build that users run: the proxy is built twice, and the second time the compiler knows which code
//! requests run through. A proxy at a moderate load runs each line of its code from a cold cache, so what
//! lies together matters more than what is computed (docs/decisions/0005).

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::steps::Steps;

/// Builds `outrigger-proxy`, guided by a profile of it under load, and `outrigger`; gives the folder
/// of both.
pub(crate) fn build(steps: &Steps, harness: &Path) -> Result<PathBuf> {
    let compiler = Compiler::find()?;
    let merge = compiler.profdata(steps)?;
    let folder = steps.target().join("guided");
    let raw = folder.join("raw");
    // What an earlier compiler wrote could not be merged.
    if raw.exists() {
        fs::remove_dir_all(&raw).with_context(|| format!("can't remove {}", raw.display()))?;
    }
    fs::create_dir_all(&raw)?;

    let generate = format!("-Cprofile-generate={}", raw.display());
    let instrumented = folder.join("instrumented");
    let proxy = compiler.proxy(
        steps,
        "build an instrumented proxy",
        &instrumented,
        &generate,
    )?;
    steps.shown(
        "train it",
        Command::new(harness)
            .arg("--train")
            .env("OUTRIGGER_BIN_DIR", proxy),
    )?;
    let profile = folder.join("profile.profdata");
    let mut merging = Command::new(merge);
    merging.args(["merge", "--output"]).arg(&profile).arg(&raw);
    steps.quiet("merge the profiles", &mut merging)?;

    let guide = format!("-Cprofile-use={}", profile.display());
    let built = compiler.proxy(steps, "build the guided proxy", &folder, &guide)?;
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    let command_line = ["build", "--release", "--package", "outrigger", "--bins"];
    steps.cargo("build the command line", &command_line)?;
    copy(&built.join("outrigger-proxy"), &bin)?;
    copy(&steps.target().join("release/outrigger"), &bin)?;
    eprintln!("==> outrigger-proxy and outrigger are in {}", bin.display());
    Ok(bin)
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().context("a file")?;
    let beside = folder.join(".new");
    // One that runs is replaced, not written into.
    fs::copy(file, &beside).with_context(|| format!("can't copy {}", file.display()))?;
    Ok(fs::rename(beside, folder.join(name))?)
}

/// What is asked of rustc.
struct Compiler {
    host: String,
    tools: PathBuf,
}

impl Compiler {
    fn find() -> Result<Self> {
        let about = ask(&["--version", "--verbose"])?;
        let host = about
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("rustc does not say which machine it is for")?
            .to_owned();
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
        let tools = sysroot.join("lib/rustlib").join(&host).join("bin");
        Ok(Self { host, tools })
    }

    /// The tool that merges profiles, in the compiler's own version.
    fn profdata(&self, steps: &Steps) -> Result<PathBuf> {
        let tool = self.tools.join("llvm-profdata");
        if !tool.exists() {
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", "llvm-tools"]);
            steps.quiet("install the compiler's profile tools", &mut rustup)?;
        }
        if !tool.exists() {
            bail!(
                "{} is missing: `rustup component add llvm-tools` installs it",
                tool.display()
            );
        }
        Ok(tool)
    }

    /// Builds the proxy with one more flag; gives the folder of the binary. With a target named, the
    /// flag is not for build scripts and macros.
    fn proxy(&self, steps: &Steps, what: &str, target: &Path, flag: &str) -> Result<PathBuf> {
        let mut flags = env::var_os("RUSTFLAGS").unwrap_or_default();
        if !flags.is_empty() {
            flags.push(" ");
        }
        flags.push(flag);
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .args([
                "build",
                "--release",
                "--package",
                "outrigger-proxy",
                "--bins",
            ])
            .args(["--target", &self.host, "--target-dir"])
            .arg(target)
            .env("RUSTFLAGS", flags);
        steps.shown(what, &mut command)?;
        Ok(target.join(&self.host).join("release"))
    }
}

fn ask(args: &[&str]) -> Result<String> {
    let rustc: OsString = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(args)
        .output()
        .context("can't run rustc")?;
    if !output.status.success() {
        bail!("rustc: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
