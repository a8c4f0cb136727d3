//! An API server with the webhook registered, two replicas of it and the Service before them.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::kubernetes::{ApiServer, DEADLINE, Injector, Service, program};
use outrigger_tests::mesh::ports;
use outrigger_tests::{process, wait};
use serde::Deserialize as _;
use serde_json::{Value, json};

pub(crate) const MESH: &str = "outrigger-system";
/// The Service's address, which is one of this machine's.
const SERVICE: &str = "127.96.0.77";
/// Certificates change while the tests run, and each is trusted some seconds before it is in use.
const LIFETIME: &str = "20s";

pub(crate) struct Place {
    pub(crate) server: ApiServer,
    pub(crate) service: Service,
    pub(crate) replicas: Vec<Injector>,
    kubeconfig: PathBuf,
}

impl Place {
    pub(crate) async fn start(programs: [PathBuf; 2]) -> Result<Self> {
        let server = ApiServer::start(programs).await?;
        let port = ports::reserve()?.port();
        for mut object in manifests().await? {
            // A test has no right to port 443, and its Service an address that it can listen on.
            if object["kind"] == "Service" {
                object["spec"]["clusterIP"] = SERVICE.into();
                object["spec"]["ports"][0]["port"] = port.into();
            }
            let webhooks = object.get_mut("webhooks").and_then(Value::as_array_mut);
            for webhook in webhooks.into_iter().flatten() {
                webhook["clientConfig"]["service"]["port"] = port.into();
            }
            let shown = object["kind"].to_string();
            server.create(&object).await.context(shown)?;
        }
        for (name, label) in [
            ("on", Some("enabled")),
            ("off", Some("disabled")),
            ("silent", None),
            ("typo", Some("enable")),
        ] {
            let mut labels = json!({});
            if let Some(label) = label {
                labels["outrigger.dev/inject"] = label.into();
            }
            let metadata = json!({"name": name, "labels": labels});
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
            server.create(&namespace).await?;
        }
        // The server makes these a little after it has started.
        for namespace in ["default", "kube-system"] {
            wait::until("namespaces of the system", DEADLINE, async || {
                server.get(&format!("/api/v1/namespaces/{namespace}")).await
            })
            .await?;
        }
        // The controller that makes these is not there.
        for namespace in [
            "on",
            "off",
            "silent",
            "typo",
            "default",
            "kube-system",
            MESH,
        ] {
            let metadata = json!({"name": "default", "namespace": namespace});
            let account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
            server.create(&account).await?;
        }
        let token = server.token(MESH, "outrigger-injector").await?;
        let kubeconfig = server.kubeconfig(&token)?;
        let address = SocketAddr::new(SERVICE.parse()?, port);
        let mut place = Self {
            server,
            service: Service::start(address).await?,
            replicas: Vec::new(),
            kubeconfig,
        };
        for name in ["injector a", "injector b"] {
            let replica = place.replica(name).await?;
            place.replicas.push(replica);
        }
        place.ready(2).await?;
        Ok(place)
    }

    /// Starts one more replica behind the Service.
    pub(crate) async fn replica(&self, name: &str) -> Result<Injector> {
        let args = ["--certificate-lifetime", LIFETIME, "--stop-delay", "1s"];
        let replica = Injector::start_in_cluster(name, &self.kubeconfig, &args).await?;
        self.service
            .add(replica.webhook(), replica.metrics_address())
            .await;
        Ok(replica)
    }

    /// Waits until so many replicas are given connections.
    pub(crate) async fn ready(&self, count: usize) -> Result<()> {
        wait::until("replicas to be ready", DEADLINE, async || {
            let ready = self.service.ready().await;
            ensure!(ready == count, "{ready} of {count}");
            Ok(())
        })
        .await
    }

    /// The authorities that the API server trusts: the same for all webhooks.
    pub(crate) async fn trusted(&self) -> Result<String> {
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/outrigger-injector";
        let registration = self.server.get(path).await?;
        let webhooks = registration["webhooks"].as_array().context("no webhooks")?;
        let bundle = &webhooks[0]["clientConfig"]["caBundle"];
        for webhook in webhooks {
            ensure!(webhook["clientConfig"]["caBundle"] == *bundle, "{webhook}");
        }
        Ok(bundle.as_str().context("no caBundle")?.to_owned())
    }

    /// The Secret of all replicas.
    pub(crate) async fn secret(&self) -> Result<Value> {
        let path = format!("/api/v1/namespaces/{MESH}/secrets/outrigger-injector-certificates");
        self.server.get(&path).await
    }
}

/// What is applied in a cluster.
async fn manifests() -> Result<Vec<Value>> {
    let args = ["injector", "manifests"].map(str::to_owned);
    let (code, text) = process::run(&program()?, &args, DEADLINE).await?;
    ensure!(code == 0, "{text}");
    serde_norway::Deserializer::from_str(&text)
        .map(|document| Ok(Value::deserialize(document)?))
        .collect()
}

pub(crate) fn pod(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "web"}},
        "spec": {"containers": [{
            "name": "app", "image": "app:1", "ports": [{"name": "http", "containerPort": 8080}],
        }]},
    })
}

/// Whether a stored pod has the sidecar, first of all containers but the one that redirects.
pub(crate) fn has_sidecar(pod: &Value) -> bool {
    pod["spec"]["initContainers"][1]["name"] == "outrigger-proxy"
}

/// Creates a pod, which must fail; why.
pub(crate) async fn refused(server: &ApiServer, pod: &Value) -> Result<String> {
    match server.create(pod).await {
        Ok(stored) => anyhow::bail!("it was created: {stored}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}
