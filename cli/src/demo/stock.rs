//! The service that the scenes of failure play with: `stock`, three hosts without sidecars, as a mesh
//! has them beside those it knows better.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use http::Request;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use super::{mesh::Mesh, process::Process, site::Host, topology, view::View};

/// The service's name.
pub(crate) const NAME: &str = "stock";
/// Its hosts call themselves so.
pub(crate) const HOSTS: [&str; 3] = ["a", "b", "c"];

/// The running service.
#[derive(Debug)]
pub(crate) struct Stock {
    hosts: Vec<(Process, Host)>,
    policy: PathBuf,
}

/// How a host behaves until it is told otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// The status of its answers.
    pub(crate) status: u16,
    /// How long each takes.
    pub(crate) delay_ms: u64,
}

/// As it should.
pub(crate) const GOOD: Behaviour = Behaviour {
    status: 200,
    delay_ms: 1,
};

impl Stock {
    /// Starts the hosts and makes the mesh know them.
    pub(crate) async fn start(mesh: &mut Mesh, view: &mut View) -> anyhow::Result<Self> {
        view.scene("starting `stock`: three hosts without sidecars");
        let mut stock = Self {
            hosts: Vec::new(),
            policy: PathBuf::from("stock-policy.yaml"),
        };
        for name in HOSTS {
            let host = mesh.site.host(&format!("{NAME}-{name}"))?;
            let args = vec![
                "sample-service".to_owned(),
                format!("--name={NAME}"),
                format!("--version={name}"),
                format!("--listen={}", host.listen),
            ];
            let process =
                mesh.start_outrigger(&format!("{NAME}-{name}"), host.exec.clone(), args)?;
            stock.hosts.push((process, host));
        }
        super::scenes::until("the start of stock", async || {
            for (process, _) in &mut stock.hosts {
                process.check()?;
            }
            Ok(stock.behave(None, GOOD).await.ok())
        })
        .await?;
        let mut text = format!(
            "{}---\napiVersion: outrigger.dev/v1alpha1\nkind: ServiceAddresses\nmetadata:\n  name: {NAME}\n  namespace: {}\nspec:\n  addresses:\n",
            topology::service(NAME, &mesh.site),
            topology::NAMESPACE
        );
        for (_, host) in &stock.hosts {
            writeln!(text, "  - {}", host.address)?;
        }
        mesh.apply("stock.yaml", &text).await?;
        Ok(stock)
    }

    /// Puts the service under these policies, and waits until they are live.
    pub(crate) async fn govern(&self, mesh: &Mesh, policies: &str) -> anyhow::Result<()> {
        mesh.apply(&self.policy.display().to_string(), policies)
            .await
    }

    /// Tells hosts how to behave: one by its name, or all.
    pub(crate) async fn behave(
        &self,
        name: Option<&str>,
        behaviour: Behaviour,
    ) -> anyhow::Result<()> {
        for (host, (_, place)) in HOSTS.iter().zip(&self.hosts) {
            if name.is_none_or(|name| name == *host) {
                let uri = format!(
                    "http://{}/behave?status={}&delay_ms={}",
                    place.control, behaviour.status, behaviour.delay_ms
                );
                let client = Client::builder(TokioExecutor::new()).build_http();
                let request = Request::put(uri).body(Empty::<Bytes>::new())?;
                let answer = client
                    .request(request)
                    .await
                    .with_context(|| format!("telling {NAME}-{host} how to behave"))?;
                anyhow::ensure!(answer.status().is_success(), "{NAME}-{host} did not listen");
            }
        }
        Ok(())
    }

    /// The address of a host.
    pub(crate) fn address(&self, name: &str) -> anyhow::Result<SocketAddr> {
        HOSTS
            .iter()
            .zip(&self.hosts)
            .find(|(host, _)| **host == name)
            .map(|(_, (_, place))| place.address)
            .with_context(|| format!("no host {name}"))
    }

    /// Stops the hosts.
    pub(crate) async fn stop(self) {
        for (process, _place) in self.hosts {
            process.stop().await;
        }
    }
}
