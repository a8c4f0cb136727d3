//! `Bootstrap`.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use outrigger_proto::envoy::{
    config::{
        bootstrap::v3::{
            Admin as AdminProto, Bootstrap as Proto, ClusterManager, LayeredRuntime,
            bootstrap::{DynamicResources, StaticResources},
            cluster_manager::OutlierDetection,
        },
        core::v3::{Node as NodeProto, TypedExtensionConfig},
    },
    extensions::regex_engines::v3::GoogleRe2,
};
use prost::Name;

use super::{access_log, source};
use crate::{
    config::{
        bootstrap::{Admin, Bootstrap, Node},
        cluster::{Cluster, Discovery},
        http_connection_manager::RouteSource,
        listener::{FilterChain, Listener},
        source::{AdsConfig, ConfigSource, SourceKind},
    },
    convert::Cx,
    no_effect, unsupported,
};

/// Envoy's default of `stats_flush_interval`.
const STATS_FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// A whole bootstrap.
#[expect(
    clippy::too_many_lines,
    reason = "one message taken apart: its fields are the length"
)]
pub fn bootstrap(cx: &Cx<'_>, bootstrap: Proto) -> Option<Bootstrap> {
    cx.converts::<Proto>();
    let raw = Arc::new(bootstrap.clone());
    #[expect(deprecated, reason = "named to be refused")]
    let Proto {
        node,
        node_context_params,
        static_resources,
        dynamic_resources,
        cluster_manager,
        hds_config,
        flags_path,
        stats_sinks,
        deferred_stat_options,
        stats_config,
        stats_flush_interval,
        watchdog,
        watchdogs,
        tracing,
        layered_runtime,
        admin,
        overload_manager,
        enable_dispatcher_stats,
        header_prefix,
        stats_server_version_override,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        bootstrap_extensions,
        fatal_actions,
        config_sources,
        default_config_source,
        default_socket_interface,
        certificate_provider_instances,
        inline_headers,
        perf_tracing_file_path,
        default_regex_engine,
        xds_delegate_extension,
        xds_config_tracker_extension,
        listener_manager,
        application_log_config,
        grpc_async_client_manager_config,
        memory_allocator_manager,
        enable_worker_cpu_affinity,
        stats_flush,
        stats_eviction,
    } = bootstrap;
    // A runtime without layers holds nothing.
    let layered_runtime = layered_runtime.filter(|runtime| *runtime != LayeredRuntime::default());
    unsupported!(
        cx,
        Proto,
        [
            node_context_params,
            hds_config,
            flags_path,
            stats_sinks,
            deferred_stat_options,
            stats_config,
            watchdog,
            watchdogs,
            tracing,
            layered_runtime,
            overload_manager,
            enable_dispatcher_stats,
            header_prefix,
            stats_server_version_override,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            bootstrap_extensions,
            fatal_actions,
            config_sources,
            default_config_source,
            default_socket_interface,
            certificate_provider_instances,
            inline_headers,
            perf_tracing_file_path,
            xds_delegate_extension,
            xds_config_tracker_extension,
            listener_manager,
            application_log_config,
            grpc_async_client_manager_config,
            memory_allocator_manager,
            enable_worker_cpu_affinity,
            stats_flush,
            stats_eviction
        ]
    );
    regex_engine(&cx.field("default_regex_engine"), default_regex_engine);
    let outlier_event_log = manager(&cx.field("cluster_manager"), cluster_manager);
    let at = cx.field("static_resources");
    at.converts::<StaticResources>();
    let StaticResources {
        listeners,
        clusters,
        secrets,
    } = static_resources.unwrap_or_default();
    unsupported!(at, StaticResources, [secrets]);
    let clusters_cx = at.field("clusters");
    // Before conversion: a cluster that is refused for another reason still has its name.
    check_names(
        &clusters_cx,
        clusters
            .iter()
            .map(|one| one.name.as_str())
            .enumerate()
            .filter(|(_, name)| !name.is_empty()),
    );
    let names = clusters.iter().map(|one| one.name.clone()).collect();
    let clusters = clusters
        .into_iter()
        .enumerate()
        .filter_map(|(index, proto)| {
            super::cluster(&clusters_cx.index(index), proto).map(|cluster| (index, cluster))
        })
        .collect::<Vec<_>>();
    let listeners_cx = at.field("listeners");
    let listeners = listeners
        .into_iter()
        .enumerate()
        .filter_map(|(index, proto)| {
            let is_unnamed = proto.name.is_empty();
            let mut one = super::listener(&listeners_cx.index(index), proto)?;
            // Two listeners without name may both ask for port 0: their address is no name then.
            if is_unnamed && one.addresses.iter().any(|address| address.port() == 0) {
                one.name = Arc::from(format!("{}#{index}", one.name));
            }
            Some((index, one))
        })
        .collect::<Vec<_>>();
    let dynamic = dynamic(&cx.field("dynamic_resources"), dynamic_resources);
    check_names(&listeners_cx, listeners.iter().map(|(i, l)| (*i, &*l.name)));
    check_addresses(&listeners_cx, &listeners);
    let node = node.unwrap_or_default();
    check_references(cx, &node, &names, &clusters, &listeners, &dynamic);
    let admin = admin.and_then(|proto| admin_of(&cx.field("admin"), proto));
    Some(Bootstrap {
        node: Node {
            id: Arc::from(node.id.as_str()),
            cluster: Arc::from(node.cluster.as_str()),
            raw: node,
        },
        listeners: listeners
            .into_iter()
            .map(|(_, one)| Arc::new(one))
            .collect(),
        clusters: clusters.into_iter().map(|(_, one)| Arc::new(one)).collect(),
        lds: dynamic.lds,
        cds: dynamic.cds,
        ads: dynamic.ads,
        admin,
        stats_flush_interval: cx.duration_or(
            "stats_flush_interval",
            stats_flush_interval,
            STATS_FLUSH_INTERVAL,
        ),
        outlier_event_log,
        raw,
    })
}

/// RE2, whose syntax ours follows, may be named; its limits can't be set.
fn regex_engine(cx: &Cx<'_>, engine: Option<TypedExtensionConfig>) {
    let Some(TypedExtensionConfig {
        name: _,
        typed_config,
    }) = engine
    else {
        return;
    };
    let at = cx.field("typed_config");
    match typed_config {
        Some(any) if any.type_url == GoogleRe2::type_url() => {
            if let Some(GoogleRe2 {}) = at.any::<GoogleRe2>(&any) {
                at.converts::<GoogleRe2>();
            }
        }
        Some(any) => at.error(format!(
            "`{}` is not a supported regex engine",
            any.type_url
        )),
        None => at.error("value is required"),
    }
}

/// The path of the outlier event log.
fn manager(cx: &Cx<'_>, manager: Option<ClusterManager>) -> Option<PathBuf> {
    cx.converts::<ClusterManager>();
    let ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        enable_deferred_cluster_creation,
    } = manager.unwrap_or_default();
    unsupported!(
        cx,
        ClusterManager,
        [local_cluster_name, upstream_bind_config, load_stats_config]
    );
    no_effect!(
        cx,
        ClusterManager,
        "pools are always created on first use",
        [enable_deferred_cluster_creation]
    );
    let cx = cx.field("outlier_detection");
    cx.converts::<OutlierDetection>();
    let OutlierDetection {
        event_log_path,
        event_service,
    } = outlier_detection.unwrap_or_default();
    unsupported!(cx, OutlierDetection, [event_service]);
    (!event_log_path.is_empty()).then(|| PathBuf::from(event_log_path))
}

#[derive(Default)]
struct Dynamic {
    lds: Option<ConfigSource>,
    cds: Option<ConfigSource>,
    ads: Option<AdsConfig>,
}

fn dynamic(cx: &Cx<'_>, resources: Option<DynamicResources>) -> Dynamic {
    cx.converts::<DynamicResources>();
    let Some(DynamicResources {
        lds_config,
        lds_resources_locator,
        cds_config,
        cds_resources_locator,
        ads_config,
    }) = resources
    else {
        return Dynamic::default();
    };
    unsupported!(
        cx,
        DynamicResources,
        [lds_resources_locator, cds_resources_locator]
    );
    Dynamic {
        lds: lds_config.and_then(|proto| source::config_source(&cx.field("lds_config"), proto)),
        cds: cds_config.and_then(|proto| source::config_source(&cx.field("cds_config"), proto)),
        ads: ads_config.and_then(|proto| source::ads_config(&cx.field("ads_config"), proto)),
    }
}

fn check_names<'a>(cx: &Cx<'_>, names: impl Iterator<Item = (usize, &'a str)>) {
    let mut seen = HashMap::new();
    for (index, name) in names {
        if let Some(first) = seen.insert(name, index) {
            cx.index(index)
                .field("name")
                .error(format!("duplicate name `{name}`: [{first}] has it too"));
        }
    }
}

/// Two listeners can't have one address; port 0 is another one each time.
fn check_addresses(cx: &Cx<'_>, listeners: &[(usize, Listener)]) {
    let mut seen = HashMap::new();
    for (index, listener) in listeners {
        for address in listener.addresses.iter().filter(|one| one.port() != 0) {
            match seen.insert(*address, *index) {
                Some(first) if first != *index => cx.index(*index).field("address").error(format!(
                    "error adding listener: '{}' has duplicate address '{address}' as existing listener [{first}]",
                    listener.name
                )),
                _ => {}
            }
        }
    }
}

/// What only the whole bootstrap can tell: an `ads` source needs `ads_config`, that needs its
/// clusters, and an inline route's clusters must exist unless CDS may bring them.
fn check_references(
    cx: &Cx<'_>,
    node: &NodeProto,
    names: &BTreeSet<String>,
    clusters: &[(usize, Cluster)],
    listeners: &[(usize, Listener)],
    dynamic: &Dynamic,
) {
    // A cluster that is itself refused is no unknown one besides.
    let has_cluster = |name: &str| names.contains(name);
    let needs_ads = |source: &ConfigSource| dynamic.ads.is_none() && source.kind == SourceKind::Ads;
    let missing = "names ads, but dynamic_resources.ads_config is not set";
    let at = cx.field("dynamic_resources");
    for (field, source) in [("lds_config", &dynamic.lds), ("cds_config", &dynamic.cds)] {
        if source.as_ref().is_some_and(needs_ads) {
            at.field(field).error(missing);
        }
    }
    let is_eds = |name: &str| {
        clusters
            .iter()
            .any(|(_, one)| &*one.name == name && matches!(one.discovery, Discovery::Eds { .. }))
    };
    if let Some(ads) = &dynamic.ads {
        if node.id.is_empty() || node.cluster.is_empty() {
            cx.field("node").error(
                "ads: node 'id' and 'cluster' are required. Set it either in 'node' config or via --service-node and --service-cluster options.",
            );
        }
        let ads_cx = at.field("ads_config");
        let services = ads_cx.field("grpc_services");
        for (index, name) in ads.clusters.iter().enumerate() {
            if !has_cluster(name) || is_eds(name) {
                services
                    .index(index)
                    .field("envoy_grpc")
                    .field("cluster_name")
                    .error(format!(
                        "Unknown gRPC client cluster '{name}': it must be static, and not EDS"
                    ));
            }
        }
    }
    let at = cx.field("static_resources");
    let list = at.field("clusters");
    for (index, cluster) in clusters {
        if let Discovery::Eds { source, .. } = &cluster.discovery
            && needs_ads(source)
        {
            list.index(*index)
                .field("eds_cluster_config")
                .field("eds_config")
                .error(missing);
        }
    }
    let list = at.field("listeners");
    for (index, listener) in listeners {
        let one = list.index(*index);
        let chains = one.field("filter_chains");
        for (place, chain) in listener.filter_chains.iter().enumerate() {
            let cx = match listener.matcher.default == Some(place) {
                true => one.field("default_filter_chain"),
                false => chains.index(place),
            };
            check_chain(&cx, chain, &has_cluster, &needs_ads);
        }
    }
}

fn check_chain(
    cx: &Cx<'_>,
    chain: &FilterChain,
    has_cluster: &dyn Fn(&str) -> bool,
    needs_ads: &dyn Fn(&ConfigSource) -> bool,
) {
    if let Some(manager) = chain.filter.http() {
        let filters = cx.field("filters");
        let filter = filters.index(0);
        let at = filter.field("typed_config");
        match &manager.routes {
            RouteSource::Rds { source, .. } if needs_ads(source) => at
                .field("rds")
                .field("config_source")
                .error("names ads, but dynamic_resources.ads_config is not set"),
            RouteSource::Rds { .. } => {}
            RouteSource::Inline(routes) => {
                if routes.validate_clusters {
                    for missing in routes.unknown_clusters(has_cluster) {
                        at.field("route_config")
                            .field(&missing.path)
                            .error(missing.reason);
                    }
                }
            }
        }
    }
}

fn admin_of(cx: &Cx<'_>, admin: AdminProto) -> Option<Admin> {
    cx.converts::<AdminProto>();
    #[expect(deprecated, reason = "named to be refused")]
    let AdminProto {
        access_log,
        access_log_path,
        profile_path,
        address,
        socket_options,
        ignore_global_conn_limit,
        allow_paths,
    } = admin;
    unsupported!(
        cx,
        AdminProto,
        [profile_path, socket_options, allow_paths, access_log]
    );
    no_effect!(
        cx,
        AdminProto,
        "there is no global connection limit, which is refused",
        [ignore_global_conn_limit]
    );
    cx.partly::<AdminProto>("access_log_path", "`/dev/null`");
    if !matches!(access_log_path.as_str(), "" | "/dev/null") {
        cx.field("access_log_path").error("not supported");
    }
    // Without an address there is no admin endpoint, as in Envoy.
    Some(Admin {
        address: cx.field("address").numeric_address(address?)?,
        access_log: access_log::access_logs(&cx.field("access_log"), Vec::new()),
    })
}
