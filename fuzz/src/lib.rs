//! What the fuzz targets check, apart from who makes the input: libFuzzer by `fuzz_targets/` (it follows
//! coverage, and needs a nightly compiler), or `tests/tests/fuzz.rs`, which runs in every test run.

use std::sync::{Arc, LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{Request, uri::Scheme};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use outrigger_injector::{
    manifest::{Action, Format as Output, rewrite},
    spec::Settings,
    webhook::review::{NamespaceLabel, Reviewer, Verdict},
};
use outrigger_proto::envoy::config::{
    bootstrap::v3::Bootstrap, cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment,
    listener::v3::Listener, route::v3::RouteConfiguration,
};
use outrigger_proxy::{
    bootstrap::{Overrides, load},
    config::{
        format::Format,
        from_proto,
        route::{PathMatch, RouteConfiguration as Config, VirtualHost},
    },
    convert::{Cx, Sink},
    listener::filters::{
        client_hello::{self, Hello},
        http_head::{self, Head},
    },
    router::Table,
    telemetry::stats::Registry,
};
use outrigger_traces::{Limits, Store};
use prost::{Message, Name};
use serde_json::Value;

/// Any text: a bootstrap or errors, never a panic.
pub fn bootstrap_text(text: &str) {
    drop(load(text, &Overrides::default()));
}

/// Any text as an access-log format.
pub fn format_string(text: &str) {
    if let Ok(format) = Format::parse(text)
        && !text.contains('%')
    {
        // Without operators a format is its own text.
        assert_eq!(format.literal().unwrap_or_default(), text);
    }
}

/// Any text as a file of mesh objects: objects or findings, never a panic.
pub fn mesh_files(text: &str) {
    drop(outrigger_mesh::parse::parse_file("fuzz.yaml", text));
}

/// Any bytes as the body of an AdmissionReview: a well-formed answer about this very request, whose patch
/// can be applied; or a line of text.
pub fn admission_review(bytes: &[u8]) {
    static REVIEWER: LazyLock<Reviewer> = LazyLock::new(Reviewer::default);
    let answer = REVIEWER.answer(bytes, NamespaceLabel::Enabled);
    if answer.status != 200 {
        assert_eq!((answer.verdict, answer.status), (Verdict::Invalid, 400));
        assert!(answer.body.len() > 1);
        return;
    }
    let review: Value = serde_json::from_slice(bytes).expect("others get a line of text");
    let body: Value = serde_json::from_str(&answer.body).expect("an answer is JSON");
    let response = &body["response"];
    assert_eq!(response["uid"], review["request"]["uid"]);
    assert_eq!(response["allowed"], answer.verdict != Verdict::Refused);
    if let Some(patch) = response["patch"].as_str() {
        let patch = BASE64_STANDARD.decode(patch).expect("a patch is base64");
        let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a patch is JSON");
        let mut pod = review["request"]["object"].clone();
        json_patch::patch(&mut pod, &patch).expect("a patch fits");
        let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
        let mut containers = lists.into_iter().flatten().flatten();
        assert!(containers.any(|container| container["name"] == "outrigger-proxy"));
    }
}

/// Any text as manifests: changed, skipped or refused, and never half of it.
pub fn manifests(text: &str) {
    let settings = Settings::default();
    let once = rewrite(text, Action::Inject(&settings), Output::Yaml);
    if once.is_fine() {
        let twice = rewrite(&once.text, Action::Inject(&settings), Output::Yaml);
        assert!(twice.is_fine());
    }
}

/// Any text as a regular expression: what RE2's rules let pass compiles, or is refused with a reason.
pub fn regex(text: &str) {
    if let Err(reason) = outrigger_proto::compile_whole_regex(text) {
        assert!(!reason.is_empty());
    }
}

/// Any bytes as the first of a connection: what listener filters say of them stays true whatever follows.
pub fn first_bytes(bytes: &[u8]) {
    const MAX: usize = 16 * 1024;
    let hello = client_hello::parse(bytes, MAX);
    let head = http_head::parse(bytes);
    if let Hello::Found(found) = &hello {
        let name = found.server_name.as_deref().unwrap_or("none");
        assert!(!name.is_empty() && name.len() <= 255);
        assert!(found.protocols.iter().all(|name| !name.is_empty()));
    }
    for end in [bytes.len() / 3, bytes.len().saturating_sub(1)] {
        let part = bytes.get(..end).unwrap_or_default();
        let before = client_hello::parse(part, MAX);
        assert!(before == Hello::More || before == hello);
        let before = http_head::parse(part);
        assert!(before == Head::More || before == head);
    }
}

/// Any bytes as an OTLP export into a store.
pub fn otlp(bytes: &[u8]) {
    static STORE: LazyLock<(tempfile::TempDir, Store)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder for the store");
        let store = Store::open(folder.path(), Limits::default()).expect("a store");
        (folder, store)
    });
    let Ok(request) = ExportTraceServiceRequest::decode(bytes) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    drop(runtime.block_on(STORE.1.ingest(request)));
}

/// Any bytes as any resource: the rules and the decoder agree on what can be read, and what is read is
/// written again.
pub fn wire_validate(bytes: &[u8]) {
    fn check<M: Message + Default + Name>(bytes: &[u8]) {
        let errors = outrigger_proto::validate(&M::full_name(), bytes);
        if let Ok(message) = outrigger_proto::decode_resource::<M>(bytes) {
            assert!(errors.is_empty());
            outrigger_proto::value_from_message(&message).expect("every resource can be written");
        }
    }
    check::<Bootstrap>(bytes);
    check::<Cluster>(bytes);
    check::<Listener>(bytes);
    check::<RouteConfiguration>(bytes);
}

/// Any bytes as a resource of one type, the way that xDS takes them: valid or not.
pub fn xds_resource(kind: u8, bytes: &[u8]) {
    fn take<M: Message + Default, T>(bytes: &[u8], convert: impl FnOnce(&Cx<'_>, M) -> Option<T>) {
        if let Ok(message) = M::decode(bytes) {
            let sink = Sink::new();
            let value = convert(&sink.root(""), message);
            // Nothing is refused without a reason.
            if let Err(errors) = sink.finish(value) {
                assert!(!errors.is_empty());
            }
        }
    }
    match kind % 4 {
        0 => take::<Cluster, _>(bytes, from_proto::cluster),
        1 => take::<ClusterLoadAssignment, _>(bytes, from_proto::load_assignment),
        2 => take::<Listener, _>(bytes, from_proto::listener),
        _ => take::<RouteConfiguration, _>(bytes, |cx, proto| {
            from_proto::route_configuration(cx, proto, false)
        }),
    }
}

/// The compiled route table finds what a plain walk over the configuration finds. Each of `seeds` makes
/// a virtual host: its domain, then its routes.
pub fn route_table(seeds: &[Vec<Vec<u8>>], name: &[u8], path: &[u8]) {
    let Some(config) = config(seeds).map(Arc::new) else {
        return;
    };
    let Ok(table) = Table::compile(Arc::clone(&config), &Registry::new(1)).map(Arc::new) else {
        return;
    };
    let name = word(name, b"ab.");
    let path = format!("/{}", word(path, b"/ab"));
    let Ok(request) = Request::builder()
        .uri(path.as_str())
        .header("host", &name)
        .body(())
    else {
        return;
    };
    let (parts, ()) = request.into_parts();
    let found = table.find(&parts, &Scheme::HTTP, false);
    let expected = host(&config, &name).and_then(|host| {
        host.routes.iter().find(|route| match &route.matches.path {
            PathMatch::Exact { value, .. } => **value == *path,
            PathMatch::Prefix { value, .. } => path.starts_with(&**value),
            _ => false,
        })
    });
    match (found, expected) {
        (None, None) => {}
        (Some(found), Some(expected)) => assert!(Arc::ptr_eq(&found.route, expected)),
        (found, expected) => panic!(
            "{name} {path}: found {}, expected {}",
            found.is_some(),
            expected.is_some()
        ),
    }
}

/// Short texts make domains and paths that meet.
fn word(bytes: &[u8], alphabet: &[u8]) -> String {
    bytes
        .iter()
        .take(6)
        .filter_map(|byte| alphabet.get(usize::from(*byte) % alphabet.len()))
        .map(|letter| char::from(*letter))
        .collect()
}

fn config(seeds: &[Vec<Vec<u8>>]) -> Option<Config> {
    let mut text = String::from("{virtual_hosts: [");
    for (index, seed) in seeds.iter().take(6).enumerate() {
        let domain = word(seed.first()?, b"ab.*");
        let mut routes = String::new();
        for path in seed.iter().skip(1).take(8) {
            let (kind, path) = path.split_first()?;
            let kind = match kind % 2 {
                0 => "path",
                _ => "prefix",
            };
            let path = word(path, b"/ab");
            routes.push_str(&format!(
                "{{match: {{{kind}: '/{path}'}}, direct_response: {{status: 200}}}},"
            ));
        }
        text.push_str(&format!(
            "{{name: v{index}, domains: ['{domain}'], routes: [{routes}]}},"
        ));
    }
    text.push_str("]}");
    let value = outrigger_proto::parse_yaml(&text).ok()?;
    let proto = outrigger_proto::message_from_value::<RouteConfiguration>(value).ok()?;
    let sink = Sink::new();
    let config = from_proto::route_configuration(&sink.root(""), proto, false);
    sink.finish(config).ok()
}

/// Exact, then the longest suffix, then the longest prefix, then `*`.
fn host<'a>(config: &'a Config, name: &str) -> Option<&'a VirtualHost> {
    let mut best: Option<((u8, usize), &VirtualHost)> = None;
    for host in &config.virtual_hosts {
        for domain in &host.domains {
            let rank = if &**domain == "*" {
                (1, 0)
            } else if let Some(suffix) = domain.strip_prefix('*') {
                if !name.ends_with(suffix) || name.len() <= suffix.len() {
                    continue;
                }
                (3, suffix.len())
            } else if let Some(prefix) = domain.strip_suffix('*') {
                if !name.starts_with(prefix) || name.len() <= prefix.len() {
                    continue;
                }
                (2, prefix.len())
            } else if &**domain == name {
                (4, 0)
            } else {
                continue;
            };
            if best.is_none_or(|(known, _)| rank > known) {
                best = Some((rank, host));
            }
        }
    }
    best.map(|(_, host)| host)
}
