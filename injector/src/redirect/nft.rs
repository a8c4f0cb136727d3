//! The rules as one script for `nft -f`, in the very words of `nft -n list table`, so that both can be
//! compared. One table of our own holds both families, and replacing it is atomic.

use super::{
    Cidr, Family, Plan,
    plan::{Base, Match, Rule, Table, Verdict},
};

/// The name of our table.
pub(super) const TABLE: &str = "outrigger";

/// The script that sets the rules, whatever of ours is there already.
pub fn script(plan: &Plan) -> String {
    // Adding makes sure that there is something to delete; old kernels have no `destroy`.
    format!("{}{}", undo(), table(plan))
}

/// The script that takes all of our rules away.
pub fn undo() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// The rules that are not in what `nft -n list table inet outrigger` prints.
pub fn missing(plan: &Plan, listed: &str) -> Vec<String> {
    let there = by_chain(listed);
    by_chain(&table(plan))
        .into_iter()
        .filter(|line| !there.contains(line))
        .map(|(chain, line)| format!("{chain}: {line}"))
        .collect()
}

/// Each rule with the chain that it is in.
fn by_chain(text: &str) -> Vec<(&str, &str)> {
    let mut chain = "";
    let mut rules = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches('{').trim();
        } else if !chain.is_empty() && !line.is_empty() && line != "}" && !line.starts_with("type ")
        {
            rules.push((chain, line));
        }
    }
    rules
}

fn table(plan: &Plan) -> String {
    let mut text = format!("table inet {TABLE} {{\n");
    for (table, chains, entries) in &plan.tables {
        for chain in chains {
            text.push_str(&format!("\tchain {} {{\n", chain.name));
            for rule in &chain.rules {
                push(&mut text, rule, plan);
            }
            text.push_str("\t}\n\n");
        }
        for base in [Base::Prerouting, Base::Output] {
            let mut rules = entries.iter().filter(|(one, _)| *one == base).peekable();
            if rules.peek().is_none() {
                continue;
            }
            let (name, kind, hook, priority) = match (table, base) {
                (Table::Nat, Base::Prerouting) => ("nat_prerouting", "nat", "prerouting", -100),
                (Table::Nat, Base::Output) => ("nat_output", "nat", "output", -100),
                (Table::Mangle, Base::Prerouting) => {
                    ("mangle_prerouting", "filter", "prerouting", -150)
                }
                // A chain of this type has marked packets routed anew.
                (Table::Mangle, Base::Output) => ("mangle_output", "route", "output", -150),
            };
            text.push_str(&format!("\tchain {name} {{\n"));
            text.push_str(&format!(
                "\t\ttype {kind} hook {hook} priority {priority}; policy accept;\n"
            ));
            for (_, rule) in rules {
                push(&mut text, rule, plan);
            }
            text.push_str("\t}\n\n");
        }
    }
    let mut text = text.trim_end().to_owned();
    text.push_str("\n}\n");
    text
}

fn push(text: &mut String, rule: &Rule, plan: &Plan) {
    // A table of both families leaves IPv6 alone where that is not wanted.
    let only_v4 = plan.families == [Family::V4] && rule.family().is_none();
    let words = line(rule, only_v4);
    text.push_str(&format!("\t\t{words}\n"));
}

fn line(rule: &Rule, only_v4: bool) -> String {
    let mut words = Vec::new();
    if only_v4 {
        words.push("meta nfproto 2".to_owned());
    }
    let mut says_tcp = false;
    let mut others = Vec::new();
    for one in &rule.matches {
        let word = match one {
            Match::In(name) => format!("iifname \"{}\"", interface(name)),
            Match::Out(name) => format!("oifname \"{}\"", interface(name)),
            Match::From(range) => address("saddr", range, ""),
            Match::To(range) => address("daddr", range, ""),
            Match::NotTo(range) => address("daddr", range, "!= "),
            Match::Port(port) => {
                says_tcp = true;
                format!("tcp dport {port}")
            }
            Match::User(id) => format!("meta skuid {id}"),
            Match::Group(id) => format!("meta skgid {id}"),
            Match::NotGroup(id) => format!("meta skgid != {id}"),
            Match::Mark(value) => format!("meta mark {value:#010x}"),
            Match::NotMark(value) => format!("meta mark != {value:#010x}"),
            Match::ConnectionMark(value) => format!("ct mark {value:#010x}"),
            Match::Established => "ct state 0x2,0x4".to_owned(),
        };
        others.push(word);
    }
    if !says_tcp {
        words.push("meta l4proto 6".to_owned());
    }
    words.extend(others);
    words.push(match &rule.verdict {
        Verdict::Return => "return".to_owned(),
        Verdict::Accept => "accept".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Redirect(port) => format!("redirect to :{port}"),
        Verdict::Tproxy(port, value) => {
            // Such a rule is of one family, since it leaves loopback alone.
            let family = rule.family().map(word).unwrap_or_default();
            format!("tproxy {family} to :{port} meta mark set {value:#010x} accept")
        }
        Verdict::Mark(value) => format!("meta mark set {value:#010x}"),
        Verdict::SaveMark => "ct mark set meta mark".to_owned(),
        Verdict::RestoreMark => "meta mark set ct mark".to_owned(),
    });
    words.join(" ")
}

fn interface(name: &str) -> String {
    match name.strip_suffix('+') {
        Some(stem) => format!("{stem}*"),
        None => name.to_owned(),
    }
}

fn address(field: &str, range: &Cidr, not: &str) -> String {
    let family = word(range.family());
    if range.is_host() {
        format!("{family} {field} {not}{}", range.address)
    } else {
        format!("{family} {field} {not}{range}")
    }
}

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
