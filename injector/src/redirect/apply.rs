//! Sets, reads and removes the rules of the network namespace that the process is in, by the system's tools.

use std::{
    io::Write as _,
    net::Ipv6Addr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use outrigger_mesh::scope::TO_WORKLOAD;

use super::{
    Config, Family, MARK, Plan, ROUTE_TABLE, missing_from_iptables, missing_from_nft, plan,
    restore, script, undo_iptables, undo_nft,
};

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
    /// `nft`.
    Nft,
}

impl Backend {
    /// `nft` where it is installed.
    pub fn of_machine() -> Self {
        match run("nft", &["--version"], None) {
            Ok(_) => Self::Nft,
            Err(_) => Self::Iptables,
        }
    }
}

/// Sets the rules, in place of any that were set before.
///
/// # Errors
/// When a tool is missing or refuses; then nothing has changed, but for routes.
pub fn apply(config: &Config, backend: Backend) -> anyhow::Result<()> {
    let plan = plan(config);
    for family in [Family::V4, Family::V6] {
        if family == Family::V4 || has_ipv6() {
            route(family, plan.needs_route && plan.families.contains(&family))?;
        }
    }
    loopback(plan.loopback.is_some())?;
    match backend {
        Backend::Nft => {
            run("nft", &["-f", "-"], Some(&script(&plan)))?;
        }
        Backend::Iptables => {
            for family in [Family::V4, Family::V6] {
                let Some(saved) = saved(family)? else {
                    continue;
                };
                let text = if plan.families.contains(&family) {
                    restore(&plan, family, &saved)
                } else {
                    undo_iptables(&saved)
                };
                restored(family, &text)?;
            }
        }
    }
    Ok(())
}

/// Removes all of our rules; it is fine if there are none.
///
/// # Errors
/// When a tool is missing or refuses.
pub fn undo(backend: Backend) -> anyhow::Result<()> {
    match backend {
        Backend::Nft => {
            run("nft", &["-f", "-"], Some(&undo_nft()))?;
        }
        Backend::Iptables => {
            for family in [Family::V4, Family::V6] {
                if let Some(saved) = saved(family)? {
                    restored(family, &undo_iptables(&saved))?;
                }
            }
        }
    }
    for family in [Family::V4, Family::V6] {
        if family == Family::V4 || has_ipv6() {
            route(family, false)?;
        }
    }
    loopback(false)
}

/// The rules that should be there and are not.
///
/// # Errors
/// When a tool is missing or refuses.
pub fn missing(config: &Config, backend: Backend) -> anyhow::Result<Vec<String>> {
    let plan = plan(config);
    let mut missing = match backend {
        Backend::Nft => {
            // Without the table nothing is there.
            let listed = run("nft", &["-n", "list", "table", "inet", "outrigger"], None);
            missing_from_nft(&plan, &listed.unwrap_or_default())
        }
        Backend::Iptables => {
            let mut missing = Vec::new();
            for family in &plan.families {
                if let Some(saved) = saved(*family)? {
                    let tool = tool(*family, "");
                    let rules = missing_from_iptables(&plan, *family, &saved);
                    missing.extend(rules.into_iter().map(|rule| format!("{tool} {rule}")));
                }
            }
            missing
        }
    };
    if plan.needs_route {
        missing.extend(missing_routes(&plan)?);
    }
    if let Some(address) = plan.loopback
        && loopback_has_ipv6()
        && !is_on_loopback(address)?
    {
        missing.push(format!("ip -6 address: {address}/128 dev lo"));
    }
    Ok(missing)
}

fn missing_routes(plan: &Plan) -> anyhow::Result<Vec<String>> {
    let mut missing = Vec::new();
    for family in &plan.families {
        if *family == Family::V6 && !has_ipv6() {
            continue;
        }
        let flag = flag(*family);
        if !run("ip", &[flag, "rule", "list"], None)?.contains(&rule_shown()) {
            missing.push(format!(
                "ip {flag} rule: fwmark {MARK} lookup {ROUTE_TABLE}"
            ));
        }
        let table = ROUTE_TABLE.to_string();
        let routes = run("ip", &[flag, "route", "list", "table", &table], None).unwrap_or_default();
        if !routes.contains("local default") {
            missing.push(format!(
                "ip {flag} route: local default dev lo table {ROUTE_TABLE}"
            ));
        }
    }
    Ok(missing)
}

fn rule_shown() -> String {
    format!("fwmark {MARK:#x} lookup {ROUTE_TABLE}")
}

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Makes or removes the route by which marked packets are delivered here.
fn route(family: Family, wanted: bool) -> anyhow::Result<()> {
    let flag = flag(family);
    let (mark, table) = (MARK.to_string(), ROUTE_TABLE.to_string());
    if !wanted && run("ip", &["-V"], None).is_err() {
        // Without the tool there cannot be a route of ours.
        return Ok(());
    }
    let is_there = run("ip", &[flag, "rule", "list"], None)?.contains(&rule_shown());
    let rule = [
        "rule",
        if wanted { "add" } else { "del" },
        "fwmark",
        &mark,
        "lookup",
        &table,
    ];
    if is_there != wanted {
        run("ip", &[[flag].as_slice(), &rule].concat(), None)?;
    }
    if wanted {
        run(
            "ip",
            &[
                flag, "route", "replace", "local", "default", "dev", "lo", "table", &table,
            ],
            None,
        )?;
    } else if is_there {
        run("ip", &[flag, "route", "flush", "table", &table], None)?;
    }
    Ok(())
}

/// Gives loopback the address that the sidecar comes from, or takes it away.
fn loopback(wanted: bool) -> anyhow::Result<()> {
    if !loopback_has_ipv6() || (!wanted && run("ip", &["-V"], None).is_err()) {
        return Ok(());
    }
    if is_on_loopback(TO_WORKLOAD.1)? != wanted {
        let verb = if wanted { "add" } else { "del" };
        let address = format!("{}/128", TO_WORKLOAD.1);
        run("ip", &["-6", "address", verb, &address, "dev", "lo"], None)?;
    }
    Ok(())
}

fn is_on_loopback(address: Ipv6Addr) -> anyhow::Result<bool> {
    let shown = run(
        "ip",
        &["-6", "-oneline", "address", "show", "dev", "lo"],
        None,
    )?;
    let address = format!("{address}/128");
    Ok(shown.split_whitespace().any(|word| word == address))
}

/// It may be switched off there alone.
fn loopback_has_ipv6() -> bool {
    let switch = std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    has_ipv6() && switch.is_ok_and(|off| off.trim() == "0")
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

fn tool(family: Family, suffix: &str) -> String {
    match family {
        Family::V4 => format!("iptables{suffix}"),
        Family::V6 => format!("ip6tables{suffix}"),
    }
}

/// What is set; `None` for IPv6 where the kernel has none.
fn saved(family: Family) -> anyhow::Result<Option<String>> {
    if family == Family::V6 && !has_ipv6() {
        return Ok(None);
    }
    run(&tool(family, "-save"), &[], None).map(Some)
}

fn restored(family: Family, text: &str) -> anyhow::Result<()> {
    if !text.is_empty() {
        run(&tool(family, "-restore"), &["--noflush"], Some(text))?;
    }
    Ok(())
}

fn run(program: &str, args: &[&str], input: Option<&str>) -> anyhow::Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} cannot be started: is it installed?"))?;
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        // A tool that ends early says why itself.
        drop(pipe.write_all(input.as_bytes()));
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} {}: {}: {}",
            args.join(" "),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
