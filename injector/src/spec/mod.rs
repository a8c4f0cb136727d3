//! The change of a pod: from a pod (or a pod template) and settings to the changed pod, with what was
//! changed and what its owner should know. Pure, and the same for the webhook and the command line.

mod annotations;
mod bootstrap;
mod ledger;
mod metrics;
mod pod;
mod probes;
mod redirect_init;
mod settings;
mod sidecar;
mod skip;
mod undo;

use serde_json::{Value, json};

pub use annotations::{ANNOTATIONS, Annotation, PREFIX};
pub use outrigger_mesh::scope::{INBOUND_PORT, OUTBOUND_PORT};
pub use settings::{Options, Redirect, Settings, supports_native_sidecars};
pub use undo::uninject;

pub(crate) use annotations::nearest;
pub(crate) use pod::Pod;

use crate::Problem;
use ledger::Ledger;

/// The sidecar's container.
pub const PROXY_CONTAINER: &str = "outrigger-proxy";
/// The init container that sets the redirection rules.
pub const INIT_CONTAINER: &str = "outrigger-init";
/// The volume of the sidecar's service-account token.
pub const TOKEN_VOLUME: &str = "outrigger-token";
/// The volume of the pod's labels and annotations.
pub const POD_VOLUME: &str = "outrigger-pod";
/// The annotation that says what was added, so that it can be taken away again.
pub const STATUS: &str = "outrigger.dev/status";
/// The label and annotation that asks for a sidecar or for none.
pub const INJECT: &str = "outrigger.dev/inject";

/// The reason for which pods are skipped that have a sidecar already.
pub const ALREADY_INJECTED: &str = "already injected";

/// The user and group that the sidecar runs as: what it sends is not redirected.
pub const PROXY_USER: u32 = 1337;
/// The sidecar's admin interface, on loopback.
pub const ADMIN_PORT: u16 = 15000;
/// Readiness, and the application's probes.
pub const READY_PORT: u16 = 15021;
/// Prometheus metrics.
pub const METRICS_PORT: u16 = 15090;

const PORTS: [u16; 5] = [
    ADMIN_PORT,
    OUTBOUND_PORT,
    INBOUND_PORT,
    READY_PORT,
    METRICS_PORT,
];

/// Where a pod comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The kind of the object that the pod (template) was found in; empty for `Pod`.
    pub kind: String,
    /// That object's name, if it has one already.
    pub name: String,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It has a sidecar now.
    Injected(Box<Injected>),
    /// It stays as it is, for this reason.
    Skipped(String),
    /// It cannot be injected until this is changed.
    Refused(Vec<Problem>),
}

/// A pod that got a sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// The changed pod or template.
    pub pod: Value,
    /// What was changed, one thing each.
    pub changes: Vec<String>,
    /// What the owner should know.
    pub notes: Vec<String>,
}

/// Adds the sidecar to a pod or pod template (an object with `metadata` and `spec`).
///
/// Whether the pod should have one at all is [`crate::decide`]'s question; what makes a sidecar impossible is
/// this function's.
pub fn inject(template: &Value, origin: &Origin, settings: &Settings) -> Outcome {
    let pod = match Pod::read(template) {
        Ok(pod) => pod,
        Err(problems) => return Outcome::Refused(problems),
    };
    if let Some(reason) = skip::reason(&pod) {
        return Outcome::Skipped(reason);
    }
    let options = match annotations::read(&pod, &settings.options) {
        Ok(options) => options,
        Err(problems) => return Outcome::Refused(problems),
    };
    if let Some(reason) = skip::never_finishes(&pod, origin, &options) {
        return Outcome::Skipped(reason);
    }
    let problems = pod.conflicts();
    if !problems.is_empty() {
        return Outcome::Refused(problems);
    }
    Outcome::Injected(Box::new(change(&pod, origin, settings, &options)))
}

fn change(pod: &Pod<'_>, origin: &Origin, settings: &Settings, options: &Options) -> Injected {
    let mut ledger = Ledger::new(pod);
    let probes = if options.rewrite_probes {
        probes::rewrite(pod, &mut ledger)
    } else {
        serde_json::Map::new()
    };
    let app_metrics = if options.merge_metrics {
        metrics::merge(pod, &mut ledger)
    } else {
        None
    };

    let mut sidecar = sidecar::container(pod, origin, settings, options);
    sidecar::tell(&mut sidecar, &probes, app_metrics.as_ref());
    let init = redirect_init::container(settings, options);
    if options.native_sidecar {
        // Before the application's own init containers: those may need the network as well.
        ledger.add_container("initContainers", 0, sidecar);
        ledger.change(format!(
            "native sidecar {PROXY_CONTAINER} (init container with restartPolicy: Always)"
        ));
        if let Some(init) = init {
            ledger.add_container("initContainers", 0, init);
            ledger.change(format!(
                "init container {INIT_CONTAINER} that redirects traffic"
            ));
        }
    } else {
        ledger.add_container("containers", 0, sidecar);
        ledger.change(format!(
            "first container {PROXY_CONTAINER} that holds the application's start"
        ));
        if let Some(init) = init {
            // After the application's own: no proxy runs yet that could take their connections.
            ledger.add_container("initContainers", usize::MAX, init);
            ledger.change(format!(
                "init container {INIT_CONTAINER} that redirects traffic"
            ));
        }
    }
    for volume in sidecar::volumes() {
        ledger.add_volume(volume);
    }
    ledger.change(format!("volumes {TOKEN_VOLUME}, {POD_VOLUME}"));
    notes(pod, options, &mut ledger);
    ledger.finish()
}

fn notes(pod: &Pod<'_>, options: &Options, ledger: &mut Ledger) {
    match options.redirect {
        Redirect::None => ledger.note(
            "no redirection: only what the application sends to the sidecar's own ports, and what another \
             component redirects, goes through the mesh",
        ),
        Redirect::Rules(mode) => {
            let who = match mode {
                crate::redirect::Mode::Redirect => INIT_CONTAINER.to_owned(),
                crate::redirect::Mode::Tproxy => format!("{INIT_CONTAINER} and {PROXY_CONTAINER}"),
            };
            ledger.note(format!(
                "Pod Security: NET_ADMIN of {who} needs a namespace that enforces `privileged`; with \
                 {PREFIX}redirect: none the pod keeps to `restricted` as far as the application does",
            ));
        }
    }
    let grace = pod
        .spec
        .get("terminationGracePeriodSeconds")
        .and_then(Value::as_u64)
        .unwrap_or(30);
    if options.drain_seconds > grace {
        ledger.note(format!(
            "the drain time ({}s) is longer than terminationGracePeriodSeconds ({grace}s): the kubelet ends \
             the sidecar before",
            options.drain_seconds
        ));
    }
}

/// A value that Kubernetes replaces by that of an environment variable of the container.
fn variable(name: &str) -> String {
    format!("$({name})")
}

/// Text that Kubernetes takes literally in `args` and `env`, where it would replace `$(NAME)`.
fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn env(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}
