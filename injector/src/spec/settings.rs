//! What the mesh decides for all pods, and what a pod may decide for itself.

use outrigger_mesh::scope::OutboundPolicy;

use crate::redirect;

/// How a mesh injects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace of the mesh itself.
    pub mesh_namespace: String,
    /// `HOST:PORT` of the control plane's xDS.
    pub control_plane: (String, u16),
    /// `HOST:PORT` of the receiver of spans, if they are sent.
    pub otlp: Option<(String, u16)>,
    /// Defaults of what pods may change by annotations.
    pub options: Options,
}

impl Default for Settings {
    fn default() -> Self {
        Self::of_mesh("outrigger-system")
    }
}

impl Settings {
    /// The settings of a mesh whose control plane is in `namespace`.
    pub fn of_mesh(namespace: &str) -> Self {
        let host = format!("outrigger-control-plane.{namespace}.svc");
        Self {
            mesh_namespace: namespace.to_owned(),
            control_plane: (host.clone(), 15010),
            otlp: Some((host, 4317)),
            options: Options::default(),
        }
    }
}

/// What a pod may change by annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The image with `outrigger` and `outrigger-proxy`.
    pub image: String,
    /// Requested CPU.
    pub cpu: String,
    /// Limit of CPU.
    pub cpu_limit: String,
    /// Requested memory.
    pub memory: String,
    /// Limit of memory.
    pub memory_limit: String,
    /// The proxy's `--log-level`.
    pub log_level: String,
    /// The proxy's `--concurrency`.
    pub concurrency: u32,
    /// Percent of requests that are traced.
    pub sampling: u8,
    /// How long connections may go on when the pod stops.
    pub drain_seconds: u64,
    /// The sidecar is an init container with `restartPolicy: Always`.
    pub native_sidecar: bool,
    /// Rewrite the application's probes.
    pub rewrite_probes: bool,
    /// Merge the Prometheus annotations.
    pub merge_metrics: bool,
    /// Whether and how traffic is redirected.
    pub redirect: Redirect,
    /// Which traffic is redirected.
    pub rules: redirect::Config,
    /// What becomes of connections to addresses that no service of the mesh has.
    pub outbound_policy: OutboundPolicy,
}

/// How traffic gets to the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// By rules in the pod's network namespace.
    Rules(redirect::Mode),
    /// Not by us.
    None,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            image: concat!("outrigger/proxy:", env!("CARGO_PKG_VERSION")).to_owned(),
            cpu: "50m".to_owned(),
            cpu_limit: "2".to_owned(),
            memory: "32Mi".to_owned(),
            memory_limit: "512Mi".to_owned(),
            log_level: "info".to_owned(),
            concurrency: 2,
            sampling: 100,
            drain_seconds: 20,
            native_sidecar: true,
            rewrite_probes: true,
            merge_metrics: true,
            redirect: Redirect::Rules(redirect::Mode::Redirect),
            rules: redirect::Config::default(),
            outbound_policy: OutboundPolicy::AllowAny,
        }
    }
}

/// Whether a Kubernetes server has native sidecars by itself: from 1.29 on. `None` if the text is no version.
pub fn supports_native_sidecars(version: &str) -> Option<bool> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let major = numbers.next()?.parse::<u32>().ok()?;
    let minor = numbers.next()?;
    // Some providers say `29+`.
    let digits = minor.trim_end_matches(|one: char| !one.is_ascii_digit());
    let minor = digits.parse::<u32>().ok()?;
    Some((major, minor) >= (1, 29))
}
