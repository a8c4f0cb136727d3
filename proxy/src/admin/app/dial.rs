//! Connections to the application: at loopback, and with TLS if it wants that.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{config::cluster::Sources, upstream::dial};

/// Where connections to the pod's own address come from, so that redirection leaves them alone.
const PASSTHROUGH: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// Connects to the application.
#[derive(Debug, Default)]
pub(super) struct Dialer {
    /// Tried last. Only of IPv4: no other source address is left alone without being set up first.
    pod: Vec<Ipv4Addr>,
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Dialer {
    /// With the pod's own addresses, separated by commas.
    pub(super) fn new(addresses: &str) -> Self {
        let pod = addresses.split(',');
        Self {
            pod: pod.filter_map(|text| text.trim().parse().ok()).collect(),
            tls: OnceLock::new(),
        }
    }

    /// A connection to that port of the application, wherever it listens.
    pub(super) async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let loopback = loopback.map(|address| (address, Sources::default()));
        let passthrough = Sources(vec![(PASSTHROUGH, 0).into()]);
        let pod = self.pod.iter();
        let pod = pod.map(|address| ((*address).into(), passthrough.clone()));
        let mut failed = Vec::new();
        for (address, sources) in loopback.into_iter().chain(pod) {
            let to = SocketAddr::new(address, port);
            match dial(to, &sources).await.and_then(not_itself) {
                Ok(stream) => {
                    // Without it the exchange is only slower.
                    stream.set_nodelay(true).unwrap_or_default();
                    return Ok(stream);
                }
                Err(error) => failed.push(format!("{to}: {error}")),
            }
        }
        Err(format!("cannot connect: {}", failed.join("; ")))
    }

    /// Speaks TLS with whoever is there.
    pub(super) async fn encrypt(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let config = match self.tls.get() {
            Some(config) => config,
            None => {
                let made = config().map_err(|error| format!("no TLS: {error}"))?;
                self.tls.get_or_init(|| made)
            }
        };
        // An address has no name that the application could choose a certificate by, as for the kubelet.
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await
            .map_err(|error| format!("no TLS: {error}"))
    }
}

/// The kernel may give a connection the port that it goes to: without a listener it then talks to itself.
fn not_itself(stream: TcpStream) -> io::Result<TcpStream> {
    match stream.local_addr()? == stream.peer_addr()? {
        true => Err(io::ErrorKind::ConnectionRefused.into()),
        false => Ok(stream),
    }
}

fn config() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The kubelet does not look at certificates, and at loopback there is nobody else.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
