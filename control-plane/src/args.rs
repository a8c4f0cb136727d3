//! The command line of the control plane, shared by its own binary and by `outrigger control-plane`.

use std::{net::IpAddr, path::PathBuf};

use clap::Args as ClapArgs;

/// Flags of the control plane. Port 0 means: any free one; it is printed.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Directory of YAML files that describe the mesh; watched for changes
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_CONFIG_DIR")]
    pub config_dir: PathBuf,

    /// Directory for traces and the last good configuration; made if missing
    #[arg(
        long,
        value_name = "DIR",
        env = "OUTRIGGER_DATA_DIR",
        default_value = "outrigger-data"
    )]
    pub data_dir: PathBuf,

    /// Address that all ports listen on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub bind: IpAddr,

    /// xDS in clear
    #[arg(long, value_name = "PORT", default_value_t = 15010)]
    pub xds_port: u16,

    /// Metrics and readiness
    #[arg(long, value_name = "PORT", default_value_t = 15014)]
    pub metrics_port: u16,

    /// JSON API
    #[arg(long, value_name = "PORT", default_value_t = 15080)]
    pub api_port: u16,

    /// OTLP over gRPC
    #[arg(long, value_name = "PORT", default_value_t = 4317)]
    pub otlp_grpc_port: u16,

    /// OTLP over HTTP
    #[arg(long, value_name = "PORT", default_value_t = 4318)]
    pub otlp_http_port: u16,

    /// Jaeger's query API
    #[arg(long, value_name = "PORT", default_value_t = 16686)]
    pub jaeger_port: u16,

    /// How long traces are kept, in hours
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    pub trace_max_age: u64,

    /// How much traces may take on disk, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    pub trace_max_size: u64,

    /// Write the addresses of all ports to this file, as JSON, once they are open
    #[arg(long, value_name = "FILE")]
    pub addresses_file: Option<PathBuf>,

    /// Log level or filter
    #[arg(
        long,
        value_name = "FILTER",
        env = "OUTRIGGER_LOG",
        default_value = "info"
    )]
    pub log_level: String,
}
