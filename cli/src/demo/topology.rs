//! What the demo's mesh is made of, and the files that describe it to the control plane.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use anyhow::Context as _;
use outrigger_base::file;
use outrigger_mesh::{
    bootstrap::{OTLP_CLUSTER, Sidecar},
    scope::{NodeMetadata, Tracing},
};

use super::site::{Home, Site};

/// Where all demo services live.
pub(crate) const NAMESPACE: &str = "shop";
/// The service that load is put on.
pub(crate) const ENTRY: &str = "storefront";
/// The service whose versions share its traffic.
pub(crate) const SPLIT: &str = "reviews";
/// The workload that is replaced while it serves.
pub(crate) const ROLLED: &str = "details-v1";

/// One workload: a sample service with its sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// Unique, such as `reviews-v1`.
    pub(crate) name: String,
    /// What it calls itself.
    pub(crate) service: &'static str,
    /// Its version.
    pub(crate) version: &'static str,
    /// The Service whose endpoint it is.
    pub(crate) endpoint_of: &'static str,
    /// What it calls.
    pub(crate) calls: &'static [&'static str],
    /// One of how many requests is slow.
    pub(crate) slow_every: u64,
    /// Where it lives.
    pub(super) home: Home,
}

/// The five workloads at the start.
pub(super) fn workloads(site: &mut Site) -> anyhow::Result<Vec<Workload>> {
    let mut workload =
        |name: &str, [service, version, endpoint_of]: [&'static str; 3], calls, slow_every| {
            anyhow::Ok(Workload {
                name: name.to_owned(),
                service,
                version,
                endpoint_of,
                calls,
                slow_every,
                home: site.home(name)?,
            })
        };
    Ok(vec![
        workload(
            ENTRY,
            ["storefront", "v1", "storefront"],
            &["reviews", "details"],
            0,
        )?,
        workload("reviews-v1", ["reviews", "v1", "reviews-v1"], &[], 0)?,
        workload(
            "reviews-v2",
            ["reviews", "v2", "reviews-v2"],
            &["ratings"],
            0,
        )?,
        workload(ROLLED, ["details", "v1", "details"], &[], 0)?,
        workload("ratings-v1", ["ratings", "v1", "ratings"], &[], 20)?,
    ])
}

/// A replacement for a workload, beside it.
pub(super) fn replacement(of: &Workload, site: &mut Site) -> anyhow::Result<Workload> {
    let name = format!("{}-next", of.name);
    let home = site.home(&name)?;
    Ok(Workload {
        name,
        home,
        ..of.clone()
    })
}

/// Below the range that the system takes ports of outgoing connections from.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Loopback addresses whose ports were free a moment ago and that were not given out before.
pub(crate) fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two demos at once begin at different places.
    let start = rand::random_range(PORTS);
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let free = (0..PORTS.len()).find_map(|_| {
            let next = NEXT.update(Relaxed, Relaxed, |port| match port {
                0 => start,
                port if port + 1 < PORTS.end => port + 1,
                _ => PORTS.start,
            });
            let candidate = SocketAddr::from((Ipv4Addr::LOCALHOST, next));
            (next != 0 && TcpListener::bind(candidate).is_ok()).then_some(candidate)
        });
        *address = free.context("no free port on loopback")?;
    }
    Ok(addresses)
}

impl Workload {
    /// What its sidecar starts with.
    pub(crate) fn sidecar(&self, xds: SocketAddr, otlp: SocketAddr, delta: bool) -> Sidecar {
        let mut metadata = NodeMetadata {
            namespace: NAMESPACE.to_owned(),
            workload: self.name.clone(),
            service: self.service.to_owned(),
            version: self.version.to_owned(),
            tracing: Some(Tracing {
                cluster: OTLP_CLUSTER.to_owned(),
                sampling: 100,
            }),
            ..NodeMetadata::default()
        };
        let admin = self.home.introduce(&mut metadata);
        Sidecar {
            id: format!("sidecar~{NAMESPACE}~{}", self.name),
            cluster: self.service.to_owned(),
            metadata,
            admin,
            xds,
            otlp: Some(otlp),
            delta,
        }
    }

    /// The command line of its application, after the program.
    pub(crate) fn app_args(&self) -> Vec<String> {
        let mut args = vec![
            "sample-service".to_owned(),
            format!("--name={}", self.service),
            format!("--version={}", self.version),
            format!("--listen={}", self.home.app),
            format!("--slow-every={}", self.slow_every),
        ];
        args.extend(self.calls.iter().map(|name| format!("--call={name}")));
        args
    }
}

/// The services of the workloads.
pub(crate) const SERVICES: [&str; 6] = [
    "storefront",
    "reviews",
    "reviews-v1",
    "reviews-v2",
    "details",
    "ratings",
];

/// The port of each service.
pub(crate) const PORT: u16 = 80;

/// Writes the files of the services; they do not change but by [`write_addresses`].
pub(super) fn write_services(directory: &Path, site: &Site) -> anyhow::Result<()> {
    let text = SERVICES.map(|name| service(name, site)).concat();
    replace(&directory.join("services.yaml"), &text)
}

/// A service, with an address of its own where clients need one.
pub(super) fn service(name: &str, site: &Site) -> String {
    let address = site
        .service_address(name)
        .map(|address| format!("  clusterIP: {}\n", address.ip()));
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\nspec:\n{}  ports:\n  - name: http\n    port: {PORT}\n",
        address.unwrap_or_default()
    )
}

/// Writes where each service's workloads are.
pub(crate) fn write_addresses(directory: &Path, workloads: &[&Workload]) -> anyhow::Result<()> {
    let mut services: BTreeMap<&str, Vec<SocketAddr>> = BTreeMap::new();
    for workload in workloads {
        services
            .entry(workload.endpoint_of)
            .or_default()
            .push(workload.home.inbound);
    }
    let mut text = String::new();
    for (service, addresses) in services {
        write!(
            text,
            "---\napiVersion: outrigger.dev/v1alpha1\nkind: ServiceAddresses\nmetadata:\n  name: {service}\n  namespace: {NAMESPACE}\nspec:\n  addresses:\n"
        )?;
        for address in addresses {
            writeln!(text, "  - {address}")?;
        }
    }
    replace(&directory.join("addresses.yaml"), &text)
}

/// The file of the route that splits traffic between the versions.
pub(crate) const ROUTE_FILE: &str = "route.yaml";

/// What it says.
pub(crate) fn route([v1, v2]: [u32; 2]) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: {SPLIT}\n  namespace: {NAMESPACE}\nspec:\n  parentRefs:\n  - group: \"\"\n    kind: Service\n    name: {SPLIT}\n    port: 80\n  rules:\n  - backendRefs:\n    - name: {SPLIT}-v1\n      port: 80\n      weight: {v1}\n    - name: {SPLIT}-v2\n      port: 80\n      weight: {v2}\n"
    )
}

/// Replaces a file; a reader sees the old text or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    file::replace(path, text).with_context(|| format!("can't write {}", path.display()))
}
