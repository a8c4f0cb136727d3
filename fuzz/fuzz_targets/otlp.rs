//! Any bytes as an OTLP export into a store.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use outrigger_traces::{Limits, Store};
use prost::Message;

static STORE: LazyLock<(tempfile::TempDir, Store)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder for the store");
    let store = Store::open(folder.path(), Limits::default()).expect("a store");
    (folder, store)
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = ExportTraceServiceRequest::decode(bytes) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    drop(runtime.block_on(STORE.1.ingest(request)));
});
