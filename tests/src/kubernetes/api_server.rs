//! A real API server over a real etcd, which `cargo xtask test` has built (`tests/peers/kubernetes`).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use http::Request;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::AuthInfo;
use kube::{Api, Client, Config};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::DEADLINE;
use crate::mesh::ports;
use crate::process::Process;
use crate::{proxy, wait};

/// Addresses of Services: on loopback, so that a test can listen on one.
pub const SERVICES: &str = "127.96.0.0/24";
const ADMIN: &str = "token-of-the-admin";

/// A running API server; dropping it kills it and its store.
#[derive(Debug)]
pub struct ApiServer {
    // Before the folder, so that they are gone when it goes.
    processes: Vec<Process>,
    address: SocketAddr,
    authority: String,
    folder: TempDir,
}

/// Both programs, or what to do where they are missing.
pub fn built() -> Result<[PathBuf; 2], String> {
    let folder = proxy::venv()
        .ok()
        .and_then(|venv| Some(venv.parent()?.join("peers")))
        .ok_or_else(|| "the target directory is unknown".to_owned())?;
    let programs = ["etcd", "kube-apiserver"].map(|name| folder.join(name));
    match programs.iter().find(|program| !program.is_file()) {
        None => Ok(programs),
        Some(missing) => Err(format!(
            "{} is missing: `cargo xtask test` builds it where there is Go 1.26 and its module proxy",
            missing.display()
        )),
    }
}

impl ApiServer {
    /// Starts both and waits until it is ready.
    pub async fn start([etcd, kube_apiserver]: [PathBuf; 2]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = ports::reserve()?;
        let authority = credentials(folder.path())?;
        let store = start_etcd(&etcd, folder.path())?;
        let server = start_server(&kube_apiserver, folder.path(), &store.1, address)?;
        let mut this = Self {
            processes: vec![server, store.0],
            address,
            authority,
            folder,
        };
        let client = this.client()?;
        wait::until("the API server to be ready", DEADLINE, async || {
            for process in &mut this.processes {
                if let Err(error) = process.check_running() {
                    return Ok(Err(error));
                }
            }
            let request = Request::get("/readyz").body(Vec::new())?;
            client.request_text(request).await?;
            Ok(Ok(()))
        })
        .await??;
        Ok(this)
    }

    /// A client that may do everything.
    pub fn client(&self) -> Result<Client> {
        self.client_of(ADMIN)
    }

    /// A client with this token.
    pub fn client_of(&self, token: &str) -> Result<Client> {
        // A second one of the same kind changes nothing.
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = Config::new(format!("https://{}", self.address).parse()?);
        let authority = pem_to_der(&self.authority)?;
        config.root_cert = Some(vec![authority]);
        // What fails shall be seen.
        config.default_retry = false;
        config.auth_info = AuthInfo {
            token: Some(token.to_owned().into()),
            ..AuthInfo::default()
        };
        Ok(Client::try_from(config)?)
    }

    /// A token of a service account.
    pub async fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client()?, namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec!["https://kubernetes.default.svc".to_owned()]),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let made = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        let token = made.status.and_then(|status| status.token);
        token.context("no token")
    }

    /// A kubeconfig file with a token.
    pub fn kubeconfig(&self, token: &str) -> Result<PathBuf> {
        let file = self.folder.path().join("kubeconfig.json");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority": self.folder.path().join("ca.crt"),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        fs::write(&file, config.to_string())?;
        Ok(file)
    }

    /// Creates an object, with unknown and repeated fields refused.
    pub async fn create(&self, object: &Value) -> Result<Value> {
        self.create_with(object, "").await
    }

    /// The same as a trial only.
    pub async fn try_create(&self, object: &Value) -> Result<Value> {
        self.create_with(object, "&dryRun=All").await
    }

    async fn create_with(&self, object: &Value, more: &str) -> Result<Value> {
        let path = path(object)?;
        let request = Request::post(format!("{path}?fieldValidation=Strict{more}"))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(object)?)?;
        Ok(self.client()?.request(request).await?)
    }

    /// Any object, or list of objects, by its path.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let request = Request::get(path).body(Vec::new())?;
        Ok(self.client()?.request(request).await?)
    }

    /// The audit log: one event each.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.folder.path().join("audit.log"))?;
        let events = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        Ok(events.collect())
    }
}

/// Where objects of this kind are created.
fn path(object: &Value) -> Result<String> {
    let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = word("/apiVersion").context("no apiVersion")?;
    let kind = word("/kind").context("no kind")?;
    let group = if version.contains('/') { "apis" } else { "api" };
    let plural = format!("{}s", kind.to_lowercase());
    Ok(match word("/metadata/namespace") {
        Some(namespace) => format!("/{group}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{group}/{version}/{plural}"),
    })
}

fn pem_to_der(pem: &str) -> Result<Vec<u8>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    Ok(CertificateDer::from_pem_slice(pem.as_bytes())?.to_vec())
}

/// Certificates, keys, the admin's token and what is audited; the authority's certificate.
fn credentials(folder: &Path) -> Result<String> {
    let mut authority = CertificateParams::default();
    authority
        .distinguished_name
        .push(DnType::CommonName, "test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    let pem = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);
    let server = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &issuer)?;
    let accounts = KeyPair::generate()?;
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "Metadata", "verbs": ["create"], "resources": [{"group": "", "resources": ["pods"]}]},
            {"level": "None"},
        ],
    });
    for (name, text) in [
        ("ca.crt", pem.clone()),
        ("tls.crt", certificate.pem()),
        ("tls.key", key.serialize_pem()),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
        (
            "tokens.csv",
            format!("{ADMIN},admin,admin,system:masters\n"),
        ),
        ("audit.json", policy.to_string()),
    ] {
        fs::write(folder.join(name), text)?;
    }
    Ok(pem)
}

fn start_etcd(program: &Path, folder: &Path) -> Result<(Process, String)> {
    let (clients, peers) = (ports::reserve()?, ports::reserve()?);
    let (clients, peers) = (format!("http://{clients}"), format!("http://{peers}"));
    let args = [
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // Nothing is to survive.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    Ok((Process::start("etcd", program, &args, &[])?, clients))
}

fn start_server(
    program: &Path,
    folder: &Path,
    store: &str,
    address: SocketAddr,
) -> Result<Process> {
    ensure!(address.ip().is_loopback(), "it is for this machine only");
    let file = |name: &str| folder.join(name).display().to_string();
    let args = [
        format!("--etcd-servers={store}"),
        format!("--bind-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        // An address of documentation: nobody is told of it.
        "--advertise-address=192.0.2.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--tls-cert-file={}", file("tls.crt")),
        format!("--tls-private-key-file={}", file("tls.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file("accounts.pub")),
        format!(
            "--service-account-signing-key-file={}",
            file("accounts.key")
        ),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--audit-policy-file={}", file("audit.json")),
        format!("--audit-log-path={}", file("audit.log")),
        "--profiling=false".to_owned(),
    ];
    Process::start("kube-apiserver", program, &args, &[])
}
