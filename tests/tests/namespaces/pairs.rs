//! Every pod calls the service of every other one, with the clients that Debian has.

use anyhow::{Context as _, Result, ensure};
use outrigger_tests::netns::{Grpc, Nginx, Pod, Postgres, Redis, Smtp, installed, port, run};

use crate::{passes_both, start};

const PROGRAMS: [&str; 6] = [
    "curl",
    "nginx",
    "psql",
    "initdb",
    "redis-server",
    "redis-cli",
];

/// A service, how it is called, and what the client says then.
struct Peer<'a> {
    name: &'static str,
    port: u16,
    pod: &'a Pod,
    words: Vec<String>,
    answer: &'static str,
}

#[test]
fn everybody_reaches_everybody() {
    const NAME: &str = "everybody_reaches_everybody";
    if !installed(NAME, &PROGRAMS) {
        return;
    }
    run(NAME, async |place| {
        let services = [
            place.service("web", &[port("http", 8080)]),
            place.service("db", &[port("tcp-postgres", 5432)]),
            place.service("cache", &[port("redis", 6379)]),
            place.service("mail", &[port("tcp-smtp", 2525)]),
            place.service("rpc", &[port("grpc", 50051)]),
        ];
        let mut pods = Vec::new();
        for name in ["web-0", "db-0", "cache-0", "mail-0", "rpc-0"] {
            pods.push(place.pod(name)?);
        }
        let objects: Vec<_> = services
            .iter()
            .zip(&pods)
            .map(|(service, pod)| service.yaml(&[pod]))
            .collect();
        let mut all: Vec<_> = pods.iter_mut().collect();
        start(place, &objects, &mut all).await?;
        let [web, db, cache, mail, rpc] = pods.as_slice() else {
            unreachable!("as many as names")
        };
        let _nginx = Nginx::start(web, 8080, "web").await?;
        let _postgres = Postgres::start(db).await?;
        let _redis = Redis::start(cache).await?;
        let smtp = Smtp::start(mail.listen(2525)?);
        let _grpc = Grpc::start(rpc, 50051).await?;
        let letter = tempfile::NamedTempFile::new()?;
        std::fs::write(letter.path(), "From: a@shop\n\nhello\n")?;
        let letter = letter.path().display().to_string();

        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut query = words("psql -h db -U postgres -At -c");
        query.push("select 6 * 7".to_owned());
        let mut send = words("curl -sS smtp://mail:2525 --mail-from a@shop --mail-rcpt b@shop -T");
        send.push(letter);
        let peers = [
            Peer {
                name: "web",
                port: 8080,
                pod: web,
                words: words("curl -sS http://web:8080/who"),
                answer: "web ",
            },
            Peer {
                name: "db",
                port: 5432,
                pod: db,
                words: query,
                answer: "42\n",
            },
            Peer {
                name: "cache",
                port: 6379,
                pod: cache,
                words: words("redis-cli -h cache incr calls"),
                answer: "",
            },
            Peer {
                name: "mail",
                port: 2525,
                pod: mail,
                words: send,
                answer: "",
            },
            Peer {
                name: "rpc",
                port: 50051,
                pod: rpc,
                words: Grpc::client("rpc:50051")?,
                answer: Grpc::ANSWER,
            },
        ];
        for client in &pods {
            for peer in &peers {
                let said = passes_both(client, peer.pod, peer.name, peer.port, async || {
                    let words: Vec<_> = peer.words.iter().map(String::as_str).collect();
                    client.say(&words).await
                })
                .await?;
                ensure!(said.starts_with(peer.answer), "{}: {said}", peer.name);
            }
        }
        let calls = cache
            .say(&["redis-cli", "-h", "127.0.0.1", "get", "calls"])
            .await?;
        ensure!(calls.trim() == pods.len().to_string(), "{calls}");
        ensure!(smtp.mails().len() == pods.len(), "{:?}", smtp.mails());
        many_queries(web, db).await.context("pgbench")?;
        Ok(())
    });
}

/// Long sessions of several connections at once, with transactions.
async fn many_queries(client: &Pod, db: &Pod) -> Result<()> {
    if !installed("pgbench", &["pgbench"]) {
        return Ok(());
    }
    passes_both(client, db, "db", 5432, async || {
        client
            .say(&[
                "pgbench", "-h", "db", "-U", "postgres", "-i", "-q", "postgres",
            ])
            .await?;
        let words = [
            "pgbench", "-h", "db", "-U", "postgres", "-c", "4", "-t", "50", "postgres",
        ];
        let said = client.say(&words).await?;
        ensure!(said.contains("actually processed: 200/200"), "{said}");
        Ok(())
    })
    .await
}

#[test]
fn http_load_passes_without_failures() {
    const NAME: &str = "http_load_passes_without_failures";
    if !installed(NAME, &["nginx", "wrk"]) {
        return;
    }
    run(NAME, async |place| {
        let web = place.service("web", &[port("http", 80).to(8080)]);
        let (mut client, mut server) = (place.pod("client")?, place.pod("web-0")?);
        let objects = [web.yaml(&[&server])];
        start(place, &objects, &mut [&mut client, &mut server]).await?;
        let _nginx = Nginx::start(&server, 8080, "web").await?;
        let said = client
            .say(&["wrk", "-t1", "-c8", "-d1s", "http://web/who"])
            .await?;
        ensure!(
            said.contains("requests in")
                && !said.contains("Non-2xx")
                && !said.contains("Socket errors"),
            "{said}"
        );
        let mut words = said.split_whitespace();
        let at = words
            .position(|word| word == "requests")
            .unwrap_or_default();
        let answered: u64 = said
            .split_whitespace()
            .nth(at.saturating_sub(1))
            .and_then(|word| word.parse().ok())
            .with_context(|| said.clone())?;
        let count = server.stat("cluster.inbound|8080||.upstream_rq_2xx")?;
        ensure!(answered > 0 && count >= answered, "{count}: {said}");
        Ok(())
    });
}
