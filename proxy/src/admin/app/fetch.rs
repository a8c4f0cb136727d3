//! A GET of the application, over HTTP/1.1 or, where TLS agrees on it, HTTP/2; redirects within the pod are
//! followed as Go's client does, by which the kubelet and Prometheus ask.

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
};

use super::{dial::Dialer, whole};

/// As Go's client.
const REDIRECTS: usize = 10;

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Get {
    pub(super) url: Url,
    /// `Host`, if it is not the URL's.
    pub(super) host: Option<HeaderValue>,
    pub(super) headers: HeaderMap,
    /// How much of the body is read.
    pub(super) keep: usize,
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) is_tls: bool,
    /// The pod, by the name that it was called by.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: PathAndQuery,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The body was no longer than what was to be kept.
    pub(super) is_whole: bool,
    pub(super) trailers: Option<HeaderMap>,
}

/// Ends a connection's task.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks, and follows redirects that stay on the host. One that leads elsewhere is the answer.
pub(super) async fn get(dialer: &Dialer, get: &Get) -> Result<Answer, String> {
    let mut url = get.url.clone();
    let mut host = get.host.clone();
    for _ in 0..=REDIRECTS {
        let answer = once(dialer, &url, host.as_ref(), &get.headers, get.keep).await?;
        if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(answer);
        }
        let Some(location) = answer.headers.get(header::LOCATION) else {
            return Ok(answer);
        };
        let next = location
            .to_str()
            .ok()
            .and_then(|location| url.resolve(location));
        let (next, is_absolute) =
            next.ok_or_else(|| format!("cannot follow the redirect to {location:?}"))?;
        if !next.host.eq_ignore_ascii_case(&get.url.host) {
            return Ok(answer);
        }
        if is_absolute {
            host = None;
        }
        url = next;
    }
    Err(format!("stopped after {REDIRECTS} redirects"))
}

async fn once(
    dialer: &Dialer,
    url: &Url,
    host: Option<&HeaderValue>,
    headers: &HeaderMap,
    keep: usize,
) -> Result<Answer, String> {
    let mut request = Request::new(Full::default());
    *request.headers_mut() = headers.clone();
    let authority = match host {
        Some(host) => host.clone(),
        None => url.authority()?,
    };
    let stream = dialer.connect(url.port).await?;
    if !url.is_tls {
        return Box::pin(over_http1(stream, request, authority, &url.path, keep)).await;
    }
    let stream = Box::pin(dialer.encrypt(stream)).await?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let asking = over_http2(stream, request, &authority, "https", &url.path, keep);
        Box::pin(asking).await
    } else {
        Box::pin(over_http1(stream, request, authority, &url.path, keep)).await
    }
}

async fn over_http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    mut request: Request<Full<Bytes>>,
    authority: HeaderValue,
    path: &PathAndQuery,
    keep: usize,
) -> Result<Answer, String> {
    *request.uri_mut() = Uri::from(path.clone());
    let headers = request.headers_mut();
    headers.insert(header::HOST, authority);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| whole(&error))?;
    // Its error is the request's error too.
    let driver = tokio::spawn(async move { drop(connection.await) });
    let _driver = Driver(driver.abort_handle());
    let response = sender.send_request(request).await;
    read(response.map_err(|error| whole(&error))?, keep).await
}

/// Sends a request over HTTP/2.
pub(super) async fn over_http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    mut request: Request<Full<Bytes>>,
    authority: &HeaderValue,
    scheme: &str,
    path: &PathAndQuery,
    keep: usize,
) -> Result<Answer, String> {
    *request.uri_mut() = Uri::builder()
        .scheme(scheme)
        .authority(authority.as_bytes())
        .path_and_query(path.clone())
        .build()
        .map_err(|error| format!("Host {authority:?}: {error}"))?;
    *request.version_mut() = Version::HTTP_2;
    // Of HTTP/1 only.
    request.headers_mut().remove(header::CONNECTION);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| whole(&error))?;
    let driver = tokio::spawn(async move { drop(connection.await) });
    let _driver = Driver(driver.abort_handle());
    let response = sender.send_request(request).await;
    read(response.map_err(|error| whole(&error))?, keep).await
}

async fn read(response: Response<Incoming>, keep: usize) -> Result<Answer, String> {
    let (parts, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    let mut is_whole = true;
    let mut trailers = None;
    while let Some(frame) = incoming.frame().await {
        match frame.map_err(|error| whole(&error))?.into_data() {
            Ok(data) => {
                let room = keep.saturating_sub(body.len());
                body.extend_from_slice(data.get(..room).unwrap_or(&data));
                if data.len() > room {
                    is_whole = false;
                    break;
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.freeze(),
        is_whole,
        trailers,
    })
}

impl Url {
    fn authority(&self) -> Result<HeaderValue, String> {
        HeaderValue::try_from(format!("{}:{}", self.host, self.port))
            .map_err(|error| format!("host {}: {error}", self.host))
    }

    /// Where a `Location` leads, and whether it says a host.
    pub(super) fn resolve(&self, location: &str) -> Option<(Self, bool)> {
        let location = location.split('#').next().unwrap_or_default();
        let scheme = location.split_once("://").map(|(scheme, _)| scheme);
        if let Some(scheme) = scheme.filter(|scheme| !scheme.contains(['/', '?'])) {
            let is_tls = match scheme.to_ascii_lowercase().as_str() {
                "http" => false,
                "https" => true,
                _ => return None,
            };
            let (_, rest) = location.split_once("://")?;
            return Some((Self::from_authority(is_tls, rest)?, true));
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Some((Self::from_authority(self.is_tls, rest)?, true));
        }
        let path = match location.chars().next() {
            None => self.path.to_string(),
            Some('/') => location.to_owned(),
            Some('?') => format!("{}{location}", self.path.path()),
            Some(_) => {
                let (folder, _) = self.path.path().rsplit_once('/')?;
                format!("{folder}/{location}")
            }
        };
        let path = self::path(&path)?;
        Some((
            Self {
                path,
                ..self.clone()
            },
            false,
        ))
    }

    /// `HOST[:PORT][PATH]`.
    fn from_authority(is_tls: bool, text: &str) -> Option<Self> {
        let end = text.find(['/', '?']).unwrap_or(text.len());
        let (authority, path) = text.split_at(end);
        let authority = authority.parse::<Authority>().ok()?;
        let default = if is_tls { 443 } else { 80 };
        Some(Self {
            is_tls,
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(default),
            path: self::path(path)?,
        })
    }
}

/// A path with its query, as it goes on the wire: what may not be in a URL is encoded, and the fragment left
/// out. None if it is too long.
pub(super) fn path(text: &str) -> Option<PathAndQuery> {
    use std::fmt::Write as _;

    let text = text.split('#').next().unwrap_or_default();
    let mut path = String::with_capacity(text.len() + 1);
    if !text.starts_with('/') {
        path.push('/');
    }
    for byte in text.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0..=b' ' | 0x7f.. => {
                // Writing to a String cannot fail.
                let _infallible = write!(path, "%{byte:02X}");
            }
            _ => path.push(char::from(byte)),
        }
    }
    path.parse().ok()
}
