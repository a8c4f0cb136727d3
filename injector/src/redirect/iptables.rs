//! The rules as text for `iptables-restore --noflush`, in the very words of `iptables-save`, so that both can
//! be compared.

use super::{
    Family, Plan,
    plan::{Base, Match, PREFIX, Rule, Table, Verdict},
};

impl Table {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Mangle => "mangle",
        }
    }
}

impl Base {
    fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Output => "OUTPUT",
        }
    }
}

/// The text that sets the rules of one family, whatever of ours is there already: `saved` is what
/// `iptables-save` (`ip6tables-save`) prints.
pub fn restore(plan: &Plan, family: Family, saved: &str) -> String {
    let mut text = String::new();
    for table in [Table::Mangle, Table::Nat] {
        let mut lines = removal(saved, table);
        if let Some((_, chains, _)) = plan.tables.iter().find(|(one, _, _)| *one == table) {
            for chain in chains {
                lines.push(format!(":{} - [0:0]", chain.name));
            }
            lines.extend(expected(plan, family, table));
        }
        wrap(&mut text, table, &lines);
    }
    text
}

/// The text that takes all of our rules away, by what `iptables-save` prints.
pub fn undo(saved: &str) -> String {
    let mut text = String::new();
    for table in [Table::Mangle, Table::Nat] {
        wrap(&mut text, table, &removal(saved, table));
    }
    text
}

/// The rules that are not in what `iptables-save` prints.
pub fn missing(plan: &Plan, family: Family, saved: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for (table, _, _) in &plan.tables {
        let there = section(saved, *table);
        for line in expected(plan, family, *table) {
            if !there.contains(&line.as_str()) {
                missing.push(format!("{}: {line}", table.name()));
            }
        }
    }
    missing
}

fn wrap(text: &mut String, table: Table, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    text.push_str(&format!("*{}\n", table.name()));
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("COMMIT\n");
}

/// The rules of one table, as `-A` lines.
fn expected(plan: &Plan, family: Family, table: Table) -> Vec<String> {
    let mut lines = Vec::new();
    for (_, chains, entries) in plan.tables.iter().filter(|(one, _, _)| *one == table) {
        for chain in chains {
            for rule in &chain.rules {
                lines.extend(line(chain.name, rule, family));
            }
        }
        for (base, rule) in entries {
            lines.extend(line(base.name(), rule, family));
        }
    }
    lines
}

/// The lines of one table of what `iptables-save` prints.
fn section(saved: &str, table: Table) -> Vec<&str> {
    let head = format!("*{}", table.name());
    saved
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != head)
        .skip(1)
        .take_while(|line| *line != "COMMIT")
        .collect()
}

/// Takes away the rules that lead to our chains, then the chains.
fn removal(saved: &str, table: Table) -> Vec<String> {
    let there = section(saved, table);
    let is_ours = |chain: &str| chain.starts_with(PREFIX);
    let mut lines = Vec::new();
    for line in &there {
        let Some(rule) = line.strip_prefix("-A ") else {
            continue;
        };
        let mut words = rule.split_whitespace();
        let chain = words.next().unwrap_or_default();
        let target = rule.split(" -j ").nth(1).unwrap_or_default();
        if !is_ours(chain) && (is_ours(target) || is_our_mark(rule)) {
            lines.push(format!("-D {rule}"));
        }
    }
    let chains = there
        .iter()
        .filter_map(|line| line.strip_prefix(':')?.split_whitespace().next())
        .filter(|chain| is_ours(chain))
        .collect::<Vec<_>>();
    // None can go while another leads to it.
    lines.extend(chains.iter().map(|chain| format!("-F {chain}")));
    lines.extend(chains.iter().map(|chain| format!("-X {chain}")));
    lines
}

/// The two rules of the kernel's own chains that lead nowhere.
fn is_our_mark(rule: &str) -> bool {
    let mark = mark(super::MARK);
    rule.contains("-j CONNMARK") && rule.contains(&format!("--mark {mark} "))
}

fn mark(mark: u32) -> String {
    format!("{mark:#x}")
}

fn line(chain: &str, rule: &Rule, family: Family) -> Option<String> {
    if rule.family().is_some_and(|one| one != family) {
        return None;
    }
    // The order in which iptables-save prints: addresses, interfaces, protocol, matches in their order, target.
    let mut head = String::new();
    let mut interface = String::new();
    let mut rest = String::new();
    for one in &rule.matches {
        match one {
            Match::From(range) => head.push_str(&format!(" -s {range}")),
            Match::To(range) => head.push_str(&format!(" -d {range}")),
            Match::NotTo(range) => head.push_str(&format!(" ! -d {range}")),
            Match::In(name) => interface.push_str(&format!(" -i {name}")),
            Match::Out(name) => interface.push_str(&format!(" -o {name}")),
            Match::Port(port) => rest.push_str(&format!(" -m tcp --dport {port}")),
            Match::User(id) => rest.push_str(&format!(" -m owner --uid-owner {id}")),
            Match::Group(id) => rest.push_str(&format!(" -m owner --gid-owner {id}")),
            Match::NotGroup(id) => rest.push_str(&format!(" -m owner ! --gid-owner {id}")),
            Match::Mark(value) => rest.push_str(&format!(" -m mark --mark {}", mark(*value))),
            Match::NotMark(value) => rest.push_str(&format!(" -m mark ! --mark {}", mark(*value))),
            Match::ConnectionMark(value) => {
                rest.push_str(&format!(" -m connmark --mark {}", mark(*value)));
            }
            Match::Established => rest.push_str(" -m conntrack --ctstate RELATED,ESTABLISHED"),
        }
    }
    let target = match &rule.verdict {
        Verdict::Return => "RETURN".to_owned(),
        Verdict::Accept => "ACCEPT".to_owned(),
        Verdict::Jump(chain) => (*chain).to_owned(),
        Verdict::Redirect(port) => format!("REDIRECT --to-ports {port}"),
        Verdict::Tproxy(port, value) => {
            let any = match family {
                Family::V4 => "0.0.0.0",
                Family::V6 => "::",
            };
            format!(
                "TPROXY --on-port {port} --on-ip {any} --tproxy-mark {}/0xffffffff",
                mark(*value)
            )
        }
        Verdict::Mark(value) => format!("MARK --set-xmark {}/0xffffffff", mark(*value)),
        Verdict::SaveMark => {
            "CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff".to_owned()
        }
        Verdict::RestoreMark => {
            "CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff".to_owned()
        }
    };
    Some(format!(
        "-A {chain}{head}{interface} -p tcp{rest} -j {target}"
    ))
}
