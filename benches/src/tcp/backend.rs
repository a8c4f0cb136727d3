//! The backends behind relays.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::load::{Line, sink, source};
use crate::backend::serve;

/// The other end of the lines.
pub(super) fn transfer() -> Result<SocketAddr> {
    serve(|stream| async move {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Ok(());
        }
        let line = Line::of(first[0]).context("no such line")?;
        let (received, sent) = line.sizes();
        let permits = Semaphore::new(0);
        let mut begun = 0;
        let receive = async {
            let receive = sink(&stream, |total| {
                // Where both ways are used, the answer does not wait for the end.
                let now = match line {
                    Line::Both => total.div_ceil(received),
                    Line::Up | Line::Down => total / received,
                };
                while begun < now {
                    begun += 1;
                    permits.add_permits(1);
                }
            });
            let ended = receive.await;
            permits.close();
            ended
        };
        let send = source(&stream, &permits, (first[0], sent));
        let (receive, send) = tokio::join!(receive, send);
        receive.and(send)
    })
}

/// Sends back what it is sent.
pub(super) fn echo() -> Result<SocketAddr> {
    serve(|mut stream: TcpStream| async move {
        let mut buffer = [0; 1024];
        loop {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                read => stream.write_all(&buffer[..read]).await?,
            }
        }
    })
}
