//! `outrigger redirect`: the rules that give a pod's connections to its sidecar.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use outrigger_injector::redirect::{
    self, Cidr, Cidrs, Config, Family, Groups, Mode, Ports,
    apply::{self, Backend},
    verify::verify,
};

// `Vec` by its name would be a repeated flag to clap.
type PortList = Vec<u16>;
type CidrList = Vec<Cidr>;
type IdList = Vec<u32>;
type NameList = Vec<String>;

/// Set, show, verify or remove the rules that give a pod's connections to its sidecar
///
/// They are set in the network namespace that the command runs in, in place of any from before. All lists have
/// Istio's meanings.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Print the rules and change nothing
    #[arg(long, conflicts_with_all = ["undo", "verify"])]
    dry_run: bool,

    /// Remove all rules
    #[arg(long, conflicts_with = "verify")]
    undo: bool,

    /// Prove the rules: each is there, and real connections get to the sidecar's port
    #[arg(long)]
    verify: bool,

    /// Set the rules, and then prove them
    #[arg(long, conflicts_with_all = ["dry_run", "undo", "verify"])]
    then_verify: bool,

    /// Whose rules [default: nft where it is installed, and with --dry-run]
    #[arg(long)]
    backend: Option<Tool>,

    /// How inbound connections are given to the sidecar
    #[arg(long, default_value = "redirect")]
    mode: Way,

    /// The sidecar's port for inbound connections
    #[arg(long, value_name = "PORT", default_value_t = 15006)]
    inbound_port: u16,

    /// The sidecar's port for outbound connections
    #[arg(long, value_name = "PORT", default_value_t = 15001)]
    outbound_port: u16,

    /// Inbound ports that are redirected: `*` or a list
    #[arg(long, value_name = "PORTS", default_value = "*")]
    include_inbound_ports: Ports,

    /// Inbound ports that are not, where all are
    #[arg(long, value_name = "PORTS", default_value = "", value_parser = redirect::ports)]
    exclude_inbound_ports: PortList,

    /// Outbound ports that are redirected also outside of the included ranges
    #[arg(long, value_name = "PORTS", default_value = "", value_parser = redirect::ports)]
    include_outbound_ports: PortList,

    /// Outbound ports that are not redirected
    #[arg(long, value_name = "PORTS", default_value = "", value_parser = redirect::ports)]
    exclude_outbound_ports: PortList,

    /// Destinations that are redirected: `*` or a list of CIDRs
    #[arg(long, value_name = "CIDRS", default_value = "*")]
    include_outbound_cidrs: Cidrs,

    /// Destinations that are not
    #[arg(long, value_name = "CIDRS", default_value = "", value_parser = redirect::cidrs)]
    exclude_outbound_cidrs: CidrList,

    /// Groups whose connections are redirected: `*` or a list of numbers
    #[arg(long, value_name = "GIDS", default_value = "*")]
    include_outbound_groups: Groups,

    /// Groups whose connections are not
    #[arg(long, value_name = "GIDS", default_value = "", value_parser = redirect::ids)]
    exclude_outbound_groups: IdList,

    /// Users whose connections are not
    #[arg(long, value_name = "UIDS", default_value = "", value_parser = redirect::ids)]
    exclude_outbound_users: IdList,

    /// Interfaces whose connections are left alone; `+` at the end of a name stands for any rest
    #[arg(long, value_name = "NAMES", default_value = "", value_parser = redirect::interfaces)]
    exclude_interfaces: NameList,

    /// Users that the sidecar runs as
    #[arg(long, value_name = "UIDS", default_value = "1337", value_parser = redirect::ids)]
    proxy_users: IdList,

    /// Groups that the sidecar runs as
    #[arg(long, value_name = "GIDS", default_value = "1337", value_parser = redirect::ids)]
    proxy_groups: IdList,

    /// Whether IPv6 is redirected too
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    ipv6: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tool {
    /// iptables-restore and ip6tables-restore
    Iptables,
    /// nft
    Nft,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Their destination is rewritten
    Redirect,
    /// They keep both addresses; the sidecar's socket is transparent
    Tproxy,
}

impl Args {
    fn config(&self) -> Config {
        Config {
            mode: match self.mode {
                Way::Redirect => Mode::Redirect,
                Way::Tproxy => Mode::Tproxy,
            },
            inbound_port: self.inbound_port,
            outbound_port: self.outbound_port,
            include_inbound_ports: self.include_inbound_ports.clone(),
            exclude_inbound_ports: self.exclude_inbound_ports.clone(),
            include_outbound_ports: self.include_outbound_ports.clone(),
            exclude_outbound_ports: self.exclude_outbound_ports.clone(),
            include_outbound_cidrs: self.include_outbound_cidrs.clone(),
            exclude_outbound_cidrs: self.exclude_outbound_cidrs.clone(),
            include_outbound_groups: self.include_outbound_groups.clone(),
            exclude_outbound_groups: self.exclude_outbound_groups.clone(),
            exclude_outbound_users: self.exclude_outbound_users.clone(),
            exclude_interfaces: self.exclude_interfaces.clone(),
            proxy_users: self.proxy_users.clone(),
            proxy_groups: self.proxy_groups.clone(),
            ipv6: self.ipv6,
        }
    }
}

/// Runs the command: success means that it is done, or that all is as it should be.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config();
    let backend = match args.backend {
        Some(Tool::Iptables) => Backend::Iptables,
        Some(Tool::Nft) => Backend::Nft,
        // What is shown shall not depend on what is installed.
        None if args.dry_run => Backend::Nft,
        None => Backend::of_machine(),
    };
    if args.dry_run {
        dry_run(&config, backend);
        return Ok(ExitCode::SUCCESS);
    }
    if args.undo {
        apply::undo(backend)?;
        eprintln!("no rules any more");
        return Ok(ExitCode::SUCCESS);
    }
    if !args.verify {
        apply::apply(&config, backend)?;
        eprintln!("rules set");
        if !args.then_verify {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let report = verify(&config, backend)?;
    for line in &report.proven {
        println!("proven: {line}");
    }
    for line in &report.untried {
        println!("not tried: {line}");
    }
    for line in &report.wrong {
        println!("wrong: {line}");
    }
    Ok(if report.wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn dry_run(config: &Config, backend: Backend) {
    let plan = redirect::plan(config);
    match backend {
        Backend::Nft => print!("{}", redirect::script(&plan)),
        Backend::Iptables => {
            for family in &plan.families {
                let tool = match family {
                    Family::V4 => "iptables-restore",
                    Family::V6 => "ip6tables-restore",
                };
                println!("# {tool} --noflush");
                print!("{}", redirect::restore(&plan, *family, ""));
            }
        }
    }
    for command in redirect::route_commands(&plan) {
        println!("# {command}");
    }
}
