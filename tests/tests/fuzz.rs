//! The checks of the fuzz targets on inputs made from what the repository holds: changed at random, but
//! the same in every run, so that a failure comes again.
//!
//! `OUTRIGGER_FUZZ_ROUNDS` multiplies the number of inputs, `OUTRIGGER_FUZZ_SEED` makes others.

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a crate of its own elsewhere")]
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use outrigger_proto::envoy::config::bootstrap::v3::Bootstrap;
use outrigger_tests::client::hello::client_hello;
use outrigger_tests::kubernetes::review;
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::Value;

/// How long one input may take, also on a busy machine with a debug build: more is a hang.
const LIMIT: Duration = Duration::from_secs(10);
/// What inputs are cut to.
const LONGEST: usize = 16 * 1024;

/// What configurations are made of.
const WORDS: &[&str] = &[
    "%",
    "%REQ(",
    ")%",
    "%START_TIME(%Y)%",
    ":10",
    "{",
    "}",
    "[",
    "]",
    "\\",
    "(?",
    "{1001}",
    "\\Q",
    "[[:alpha:]]",
    "*",
    "+",
    "|",
    "^",
    "$",
    "'",
    "\"",
    ": ",
    "- ",
    "\n",
    "#",
    "&a",
    "*a",
    "<<: *a",
    "null",
    "~",
    "-1",
    "1e309",
    "18446744073709551616",
    "0x7f",
    "315576000001s",
    "0.0000000001s",
    "true",
    "\"@type\": ",
    "type.googleapis.com/",
    "name",
    "\u{0}",
    "\u{feff}",
    "é",
    "\u{2028}",
];

#[test]
fn bootstrap_text() {
    texts(
        "bootstrap_text",
        600,
        &yaml(&["examples", "tests/parity/cases"]),
        |text| {
            targets::bootstrap_text(text);
        },
    );
}

#[test]
fn format_string() {
    let seeds = [
        "%REQ(a?b):3%",
        "%DURATION%ms",
        "plain",
        "%START_TIME(%s.%3f)%",
        "%%%",
    ];
    texts(
        "format_string",
        20_000,
        &seeds.map(Vec::from),
        targets::format_string,
    );
}

#[test]
fn regex() {
    let seeds = [
        r"/a/[^/]+(b|c)*\d{2,3}",
        r"\Qa\E(?i:x)",
        r"[\w[:^digit:]-]\pL\x{41}",
        "a",
    ];
    texts("regex", 12_000, &seeds.map(Vec::from), targets::regex);
}

#[test]
fn mesh_files() {
    let seeds = yaml(&["examples/mesh", "control-plane/mesh/tests/golden"]);
    texts("mesh_files", 3_000, &seeds, targets::mesh_files);
}

#[test]
fn admission_review() {
    let pods = yaml(&["injector/tests/golden"])
        .into_iter()
        .filter_map(|text| serde_norway::from_slice::<Value>(&text).ok())
        .filter(|pod| pod["kind"] == "Pod");
    let seeds: Vec<_> = pods
        .map(|pod| review("1", "shop", &pod).to_string().into_bytes())
        .filter(|review| review.len() <= LONGEST)
        .collect();
    bytes("admission_review", 6_000, &seeds, targets::admission_review);
}

#[test]
fn manifests() {
    let seeds = yaml(&["injector/tests/golden"]);
    texts("manifests", 1_500, &seeds, targets::manifests);
}

#[test]
fn otlp() {
    // A span with its ids, in a scope, in a resource.
    let span = [
        &[0x0a, 16][..],
        &[7; 16],
        &[0x12, 8],
        &[9; 8],
        &[0x2a, 1, b'n'],
    ]
    .concat();
    let wrap = |inner: &[u8]| [&[0x12, inner.len() as u8], inner].concat();
    let scope = wrap(&span);
    let resource = wrap(&scope);
    let export = [&[0x0a, resource.len() as u8], &resource[..]].concat();
    bytes("otlp", 12_000, &[export], targets::otlp);
}

#[test]
fn first_bytes() {
    let protocols = ["h2".to_owned(), "http/1.1".to_owned()];
    let hello = |record| client_hello(Some("a.example.com"), &protocols, record);
    let seeds = [
        hello(16_384),
        hello(50),
        hello(1),
        b"GET /path HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    ];
    bytes("first_bytes", 20_000, &seeds, targets::first_bytes);
}

#[test]
fn wire_validate() {
    bytes("wire_validate", 6_000, &wire(), targets::wire_validate);
}

#[test]
fn xds_resource() {
    for kind in 0..4 {
        let name = format!("xds_resource {kind}");
        bytes(&name, 2_000, &wire(), |bytes| {
            targets::xds_resource(kind, bytes)
        });
    }
}

#[test]
fn route_table() {
    let mut random = random("route_table");
    for _ in 0..10_000 * rounds() {
        let mut word = |most: usize| -> Vec<u8> {
            let length = random.random_range(0..=most);
            (0..length).map(|_| random.random()).collect()
        };
        let seeds: Vec<Vec<Vec<u8>>> = (0..4).map(|_| (0..5).map(|_| word(4)).collect()).collect();
        let (name, path) = (word(5), word(5));
        check(
            "route_table",
            &format!("{seeds:?} {name:?} {path:?}"),
            || {
                targets::route_table(&seeds, &name, &path);
            },
        );
    }
}

fn texts(name: &str, count: usize, seeds: &[Vec<u8>], target: impl Fn(&str)) {
    bytes(name, count, seeds, |input| {
        target(&String::from_utf8_lossy(input))
    });
}

fn bytes(name: &str, count: usize, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    let mut random = random(name);
    assert!(!seeds.is_empty());
    // What is already there must be fine, before it is changed.
    for seed in seeds {
        check(name, &seed.escape_ascii(), || target(seed));
    }
    for _ in 0..count * rounds() {
        let input = changed(seeds, &mut random);
        check(name, &input.escape_ascii(), || target(&input));
    }
}

fn check(name: &str, input: &dyn std::fmt::Display, target: impl FnOnce()) {
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(target));
    let took = start.elapsed();
    assert!(outcome.is_ok(), "{name} fails with {input}");
    assert!(took < LIMIT, "{name} takes {took:?} with {input}");
}

/// A seed with some changes; parts of others get into it.
fn changed(seeds: &[Vec<u8>], random: &mut SmallRng) -> Vec<u8> {
    let mut input = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..=6) {
        let at = random.random_range(0..=input.len());
        let end = (at + random.random_range(0..=32)).min(input.len());
        match random.random_range(0..7) {
            0 => drop(input.drain(at..end)),
            1 => {
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            2 => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                input.splice(at..at, word.bytes());
            }
            3 => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                let to = (from + random.random_range(0..=256)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            4 => input.truncate(at),
            5 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
            _ => input.insert(at, random.random()),
        }
    }
    input.truncate(LONGEST);
    input
}

/// The same numbers in every run, and others for each target.
fn random(name: &str) -> SmallRng {
    let seed = number("OUTRIGGER_FUZZ_SEED", 0);
    let name = name.bytes().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    SmallRng::seed_from_u64(seed ^ name)
}

fn rounds() -> usize {
    usize::try_from(number("OUTRIGGER_FUZZ_ROUNDS", 1)).unwrap_or(1)
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every YAML file below these folders, short enough to be changed in a way that matters.
fn yaml(folders: &[&str]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder of the repository");
            left.extend(entries.flatten().map(|entry| entry.path()));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let text = fs::read(&path).expect("a file of the repository");
            if text.len() <= LONGEST {
                found.push((path, text));
            }
        }
    }
    // The order of folders is the machine's.
    found.sort();
    found.into_iter().map(|(_, text)| text).collect()
}

/// Resources on the wire: those of the configuration that has every field we know.
fn wire() -> Vec<Vec<u8>> {
    let sample = root().join("proxy/src/config/from_proto/sample.yaml");
    let text = fs::read_to_string(sample).expect("the sample");
    let value = outrigger_proto::parse_yaml(&text).expect("YAML");
    let bootstrap = outrigger_proto::read_message::<Bootstrap>(&value)
        .take_message()
        .expect("a bootstrap");
    let mut found = vec![bootstrap.encode_to_vec()];
    let resources = bootstrap.static_resources.unwrap_or_default();
    for cluster in &resources.clusters {
        found.push(cluster.encode_to_vec());
        found.extend(
            cluster
                .load_assignment
                .iter()
                .map(|one| one.encode_to_vec()),
        );
    }
    for listener in &resources.listeners {
        found.push(listener.encode_to_vec());
        for chain in &listener.filter_chains {
            // The connection manager, and what in it begins a route configuration.
            let managers = chain.filters.iter().filter_map(|filter| match &filter.config_type {
                Some(outrigger_proto::envoy::config::listener::v3::filter::ConfigType::TypedConfig(any)) => {
                    outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager::decode(any.value.as_slice()).ok()
                }
                _ => None,
            });
            for manager in managers {
                if let Some(outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier::RouteConfig(routes)) = manager.route_specifier {
                    found.push(routes.encode_to_vec());
                }
            }
        }
    }
    found
}
