//! A service whose server speaks first, and that ends a conversation in its own words: enough of SMTP for curl to
//! send mail with.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A running server; dropping it closes its port and connections.
#[derive(Debug)]
pub struct Smtp {
    mails: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Smtp {
    /// Serves what the listener accepts.
    pub fn start(listener: TcpListener) -> Self {
        let mails = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&mails);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let mails = Arc::clone(&kept);
                // A client that leaves early sends no mail.
                connections.spawn(async move { drop(converse(stream, &mails).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { mails, task }
    }

    /// The mails that came, as they were sent.
    pub fn mails(&self) -> Vec<String> {
        let mails = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
        mails.clone()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(stream: TcpStream, mails: &Mutex<Vec<String>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 mail.shop ESMTP\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_uppercase();
        let answer = match verb.as_str() {
            "EHLO" | "HELO" => "250 mail.shop",
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                let mut mail = String::new();
                loop {
                    line.clear();
                    if stream.read_line(&mut line).await? == 0 {
                        return Ok(());
                    }
                    if line == ".\r\n" {
                        break;
                    }
                    mail.push_str(&line);
                }
                let mut mails = mails.lock().unwrap_or_else(PoisonError::into_inner);
                mails.push(mail);
                "250 taken"
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                stream.shutdown().await?;
                return Ok(());
            }
            _ => "250 fine",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}
