//! TCP checks: a connection, or a few bytes on it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Broken, Connection, Target, holds};
use crate::{
    config::health_check::TcpCheck,
    upstream::{dial::dial, health::session::Verdict},
};

/// The most that is read in search of what is expected.
const LARGEST_ANSWER: usize = 1 << 20;

pub(super) async fn check(
    check: &TcpCheck,
    to: &Target,
    kept: Connection,
) -> Result<(Verdict, Connection), Broken> {
    let mut stream = match kept {
        Connection::Tcp(stream) => stream,
        _ => dial(to.address, &to.sources).await.map_err(|_| Broken)?,
    };
    let passed = Verdict::Passed { is_degraded: false };
    if !check.send.is_empty() {
        stream.write_all(&check.send).await.map_err(|_| Broken)?;
    }
    // Only whether there is a connection was of interest.
    if check.receive.is_empty() {
        return Ok((passed, Connection::None));
    }
    let mut read = Vec::new();
    loop {
        let count = stream.read_buf(&mut read).await.map_err(|_| Broken)?;
        if holds(&read, &check.receive) {
            return Ok((passed, Connection::Tcp(stream)));
        }
        if count == 0 || read.len() > LARGEST_ANSWER {
            return Err(Broken);
        }
    }
}
