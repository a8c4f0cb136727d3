//! The backends behind relays.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::load::{TRANSFER, sink, source};
use crate::backend::serve;

/// Sends as many transfers as it is sent, each while the other comes in.
pub(super) fn exchange() -> Result<SocketAddr> {
    serve(|stream| async move {
        let permits = Semaphore::new(0);
        let receive = async {
            let mut begun = 0;
            let received = sink(&stream, |total| {
                while begun * TRANSFER < total {
                    begun += 1;
                    permits.add_permits(1);
                }
            });
            let received = received.await;
            permits.close();
            received
        };
        let (received, sent) = tokio::join!(receive, source(&stream, &permits));
        received.and(sent)
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
