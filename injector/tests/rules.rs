//! The rules of redirection as text: `rules/NAME.txt` has what `nft` and both `iptables-restore` are given.
//! `UPDATE_GOLDEN=1` writes them anew; read the difference.

use std::{fs, path::Path};

use outrigger_injector::redirect::{
    Config, Family, Mode, Plan, missing_from_iptables, missing_from_nft, plan, ports, restore,
    route_commands, script, undo_iptables,
};

const FINE: &str = "written here";

fn every_list() -> Config {
    Config {
        include_inbound_ports: "80,443".parse().expect(FINE),
        exclude_inbound_ports: ports("9000").expect(FINE),
        include_outbound_ports: ports("3306").expect(FINE),
        exclude_outbound_ports: ports("25, 26").expect(FINE),
        include_outbound_cidrs: "10.1.2.3/8,fd00::/8".parse().expect(FINE),
        exclude_outbound_cidrs: vec![
            "10.9.0.1".parse().expect(FINE),
            "fd00:1::/64".parse().expect(FINE),
        ],
        include_outbound_groups: "0,5".parse().expect(FINE),
        exclude_outbound_groups: vec![102],
        exclude_outbound_users: vec![101],
        exclude_interfaces: vec!["net1".to_owned(), "veth+".to_owned()],
        proxy_users: vec![7],
        proxy_groups: vec![8],
        inbound_port: 2,
        outbound_port: 1,
        ..Config::default()
    }
}

fn cases() -> Vec<(&'static str, Config)> {
    let default = Config::default();
    let v4 = Config {
        ipv6: false,
        exclude_inbound_ports: vec![22],
        ..default.clone()
    };
    let none = Config {
        include_inbound_ports: "".parse().expect(FINE),
        include_outbound_cidrs: "".parse().expect(FINE),
        ..default.clone()
    };
    vec![
        ("default", default.clone()),
        ("tproxy", default.with_mode(Mode::Tproxy)),
        ("every_list", every_list()),
        ("every_list_tproxy", every_list().with_mode(Mode::Tproxy)),
        ("ipv4_only", v4),
        ("nothing_included", none),
    ]
}

fn text(plan: &Plan) -> String {
    let mut text = format!("== nft\n{}", script(plan));
    for family in &plan.families {
        text.push_str(&format!(
            "== iptables {family:?}\n{}",
            restore(plan, *family, "")
        ));
    }
    for command in route_commands(plan) {
        text.push_str(&format!("== {command}\n"));
    }
    text
}

#[test]
fn rules_are_what_they_should_be() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let is_update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for (name, config) in cases() {
        let text = text(&plan(&config));
        let path = folder.join(format!("{name}.txt"));
        if is_update {
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            wrong.push(format!("{name}:\n{text}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "differ from rules/*.txt:\n{}",
        wrong.join("\n")
    );
}

/// What `iptables-save` prints after a text was restored into empty tables.
fn saved(restored: &str) -> String {
    restored
        .lines()
        .map(|line| format!("{line}\n"))
        .collect::<String>()
        .replace(
            "*nat\n",
            "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [3:180]\n-A PREROUTING -j OTHERS\n",
        )
}

#[test]
fn what_is_missing_is_named() {
    for (name, config) in cases() {
        let plan = plan(&config);
        for family in &plan.families {
            let there = saved(&restore(&plan, *family, ""));
            assert_eq!(
                missing_from_iptables(&plan, *family, &there),
                [""; 0],
                "{name}"
            );
            let lines = there
                .lines()
                .filter(|line| line.starts_with("-A"))
                .collect::<Vec<_>>();
            for line in lines.iter().filter(|line| line.contains("OUTRIGGER")) {
                let without = there.replace(&format!("{line}\n"), "");
                let missing = missing_from_iptables(&plan, *family, &without);
                assert!(
                    missing.len() == 1 && missing[0].ends_with(line),
                    "{name}: {line}: {missing:?}"
                );
            }
        }
        assert_eq!(missing_from_nft(&plan, &script(&plan)), [""; 0], "{name}");
        assert!(!missing_from_nft(&plan, "").is_empty());
    }
}

#[test]
fn only_our_own_rules_are_taken_away() {
    for (name, config) in cases() {
        let plan = plan(&config);
        let undo = undo_iptables(&saved(&restore(&plan, Family::V4, "")));
        assert!(
            undo.contains("-D PREROUTING") || config.mode == Mode::Redirect,
            "{name}"
        );
        assert!(!undo.contains("OTHERS"), "{name}: {undo}");
        for (_, chains, _) in &plan.tables {
            for chain in chains {
                assert!(
                    undo.contains(&format!("-X {}\n", chain.name)),
                    "{name}: {undo}"
                );
            }
        }
        // Nothing of ours, nothing to do.
        assert_eq!(undo_iptables("*nat\n-A PREROUTING -j OTHERS\nCOMMIT\n"), "");
    }
}

#[test]
fn flags_mean_the_same_configuration() {
    assert_eq!(Config::default().to_args(), [""; 0]);
    let args = every_list().with_mode(Mode::Tproxy).to_args();
    assert_eq!(
        args.join(" "),
        "--mode=tproxy --inbound-port=2 --outbound-port=1 --include-inbound-ports=80,443 \
         --exclude-inbound-ports=9000 --include-outbound-ports=3306 --exclude-outbound-ports=25,26 \
         --include-outbound-cidrs=10.0.0.0/8,fd00::/8 --exclude-outbound-cidrs=10.9.0.1/32,fd00:1::/64 \
         --include-outbound-groups=0,5 --exclude-outbound-groups=102 --exclude-outbound-users=101 \
         --exclude-interfaces=net1,veth+ --proxy-users=7 --proxy-groups=8"
    );
}
