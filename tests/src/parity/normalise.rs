//! Takes out of an observation what differs between any two runs: ports, ids, dates, durations.
//! A value is replaced, never dropped, so that its presence is still compared.

use regex::Regex;

use super::case::Places;
use super::outcome::{Headers, Outcome, Reached};
use crate::client::Response;
use crate::upstream::Received;

/// Headers whose values depend on the clock.
const CLOCKED: [&str; 2] = ["date", "x-envoy-upstream-service-time"];

/// What is left of a timeout: a little less with each retry.
const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

/// Our own header on local replies, which Envoy cannot have (`docs/differences.md`, "everywhere").
const REASON: &str = "x-outrigger-reason";

/// The replacements of one run.
#[derive(Debug)]
pub(super) struct Normaliser {
    ports: Vec<(String, String)>,
    uuid: Regex,
    local: Regex,
    version: Regex,
    hex: Regex,
    /// Hexadecimal ids that the case itself wrote.
    known: Vec<String>,
}

impl Normaliser {
    /// Knows the ports of the run's upstreams by their placeholder's name.
    /// Ids in the case's text are not random, and stay.
    pub(super) fn new(places: &Places, text: &str) -> Self {
        let ports = places
            .iter()
            .filter(|(_, value)| value.parse::<u16>().is_ok())
            .map(|(name, port)| (format!("127.0.0.1:{port}"), format!("<{name}>")))
            .collect();
        let regex = |text| Regex::new(text).expect("a constant expression");
        let hex = regex(r"\b([0-9a-f]{32}|[0-9a-f]{16})\b");
        Self {
            known: hex
                .find_iter(text)
                .map(|id| id.as_str().to_owned())
                .collect(),
            hex,
            ports,
            uuid: regex(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
            local: regex(r"127\.0\.0\.1:\d+"),
            version: regex(r"(envoy|outrigger-proxy) v?\d+\.\d+\.\d+\S*"),
        }
    }

    /// One text.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (port, name) in &self.ports {
            text = text.replace(port, name);
        }
        let text = self.uuid.replace_all(&text, "<uuid>");
        let text = self.hex.replace_all(&text, |found: &regex::Captures<'_>| {
            let id = &found[0];
            if self.known.iter().any(|known| known == id) {
                return id.to_owned();
            }
            if id.len() == 32 {
                "<trace>".to_owned()
            } else {
                "<span>".to_owned()
            }
        });
        let text = self.local.replace_all(&text, "<local>");
        self.version.replace_all(&text, "<version>").into_owned()
    }

    /// What a conversation in bytes gave.
    pub(super) fn bytes(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        if text.len() > 4096 {
            format!("{} bytes, {}", bytes.len(), checksum(&text))
        } else {
            self.text(&text)
        }
    }

    /// Headers by name; the values of one name stay in order.
    pub(super) fn headers(&self, pairs: &[(String, String)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in pairs {
            if name == REASON {
                continue;
            }
            if name == EXPECTED {
                headers
                    .entry(name.clone())
                    .or_default()
                    .push(rounded(value));
                continue;
            }
            let clocked = CLOCKED.contains(&name.as_str());
            let value = if clocked {
                "<clock>".to_owned()
            } else {
                self.text(value)
            };
            headers.entry(name.clone()).or_default().push(value);
        }
        headers
    }

    /// A reply. The upstream's echo is compared as what the upstream received, not as a body.
    pub(super) fn response(&self, response: &Response) -> Outcome {
        let body = response.text();
        let mut headers = self.headers(&response.headers);
        let body = if body.starts_with("{\"upstream\":") {
            if let Some(length) = headers.get_mut("content-length") {
                *length = vec!["<echo>".to_owned()];
            }
            "<echo>".to_owned()
        } else if response.error.is_some() {
            // How much was passed on before a break is a matter of timing.
            "<cut>".to_owned()
        } else if body.len() > 4096 {
            format!("{} bytes, {}", body.len(), checksum(&body))
        } else {
            self.text(&body)
        };
        Outcome {
            status: response.status,
            version: response.version.clone(),
            interim: response.interim.clone(),
            headers,
            body,
            trailers: self.headers(&response.trailers),
            following: response
                .following
                .iter()
                .map(|next| self.response(next))
                .collect(),
            error: response.error.clone(),
            ..Outcome::default()
        }
    }

    /// What an upstream received.
    pub(super) fn received(&self, received: &Received, with_connection: bool) -> Reached {
        Reached {
            upstream: received.upstream.clone(),
            protocol: received.protocol.clone(),
            method: received.method.clone(),
            authority: self.text(&received.authority),
            path: received.path.clone(),
            headers: self.headers(&received.headers),
            body: received.body.clone(),
            trailers: self.headers(&received.trailers),
            connection: with_connection.then_some(received.connection),
        }
    }
}

/// Without the few milliseconds that a try took.
fn rounded(millis: &str) -> String {
    match millis.parse::<u64>() {
        Ok(millis) if millis > 2000 => (millis.saturating_add(500) / 1000 * 1000).to_string(),
        Ok(millis) => (millis.saturating_add(25) / 50 * 50).to_string(),
        Err(_) => millis.to_owned(),
    }
}

fn checksum(text: &str) -> String {
    let sum = text.bytes().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    format!("checksum {sum:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ports_get_their_names_and_others_do_not() {
        let places = Places::from([("a".to_owned(), "4000".to_owned())]);
        let normaliser = Normaliser::new(&places, "");
        assert_eq!(
            normaliser.text("127.0.0.1:4000 127.0.0.1:5000"),
            "<a> <local>"
        );
    }

    #[test]
    fn a_date_is_still_seen_to_be_there() {
        let normaliser = Normaliser::new(&Places::new(), "");
        let headers = normaliser.headers(&[("date".to_owned(), "today".to_owned())]);
        assert_eq!(headers["date"], ["<clock>"]);
    }
}
