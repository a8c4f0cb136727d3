//! A small client for the JSON APIs on loopback.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

/// How long a control plane's answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// GET from a control plane; the answer's body as text.
pub(crate) async fn get_text(url: &str) -> anyhow::Result<String> {
    let hint = ": is the control plane running? --server names another";
    fetch(url, TIMEOUT, hint).await
}

/// GET from a control plane; the answer's body as JSON.
pub(crate) async fn get_json(url: &str) -> anyhow::Result<Value> {
    parse(url, &get_text(url).await?)
}

/// GET from anything; the answer's body as JSON, if it comes in time.
pub(crate) async fn get_json_within(url: &str, timeout: Duration) -> anyhow::Result<Value> {
    parse(url, &fetch(url, timeout, "").await?)
}

fn parse(url: &str, text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("{url} did not answer with JSON"))
}

/// The `hint` says what to do about a server that cannot be reached.
async fn fetch(url: &str, timeout: Duration, hint: &str) -> anyhow::Result<String> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder().uri(url).body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = client.request(request).await;
        let response = response.with_context(|| format!("can't reach {url}{hint}"))?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if !status.is_success() {
            bail!("{url} answered {status}: {}", text.trim());
        }
        Ok(text)
    };
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer,
        Err(_) => bail!("{url} did not answer within {timeout:?}"),
    }
}
