//! A small client for the JSON APIs on loopback.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// GET; the answer's body as text.
pub(crate) async fn get_text(url: &str) -> anyhow::Result<String> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder().uri(url).body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = client.request(request).await.with_context(|| {
            format!("can't reach {url}: is the control plane running? --server names another")
        })?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if !status.is_success() {
            bail!("{url} answered {status}: {}", text.trim());
        }
        Ok(text)
    };
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(answer) => answer,
        Err(_) => bail!("{url} did not answer within {TIMEOUT:?}"),
    }
}

/// GET; the answer's body as JSON.
pub(crate) async fn get_json(url: &str) -> anyhow::Result<serde_json::Value> {
    let text = get_text(url).await?;
    serde_json::from_str(&text).with_context(|| format!("{url} did not answer with JSON"))
}
