//! Relays between real sockets.

use std::{cell::Cell, future::poll_fn};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

#[derive(Default)]
struct Count {
    up: Cell<u64>,
    down: Cell<u64>,
}

impl Meter for Count {
    fn read(&self, _: Way, _: u64) {}

    fn written(&self, way: Way, bytes: u64) {
        let cell = match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        };
        cell.set(cell.get() + bytes);
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// A client, a host, and the relay between them, which closes both at its end.
async fn relay(
    client: impl AsyncFnOnce(TcpStream),
    host: impl AsyncFnOnce(TcpStream),
) -> (End, u64, u64) {
    let ((outer, downstream), (inner, upstream)) = tokio::join!(pair(), pair());
    let count = Count::default();
    let mut relay = Relay::default();
    let run = async {
        let end = poll_fn(|task| relay.poll(task, &downstream, &upstream, &count)).await;
        drop((downstream, upstream));
        end
    };
    let (end, (), ()) = tokio::join!(run, client(outer), host(inner));
    (end, count.up.get(), count.down.get())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_side_closes_for_itself() {
    let (end, up, down) = relay(
        async |mut client| {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer after the end");
        },
        async |mut host| {
            let mut question = String::new();
            host.read_to_string(&mut question).await.unwrap();
            assert_eq!(question, "question");
            host.write_all(b"answer after the end").await.unwrap();
        },
    )
    .await;
    assert_eq!((end, up, down), (End::Closed(Side::Upstream), 8, 20));
}

#[tokio::test]
async fn much_goes_through_unchanged_though_the_reader_is_slow() {
    const LENGTH: usize = 20 << 20;
    let sent = pattern(LENGTH);
    let (end, up, down) = relay(
        async |mut client| {
            let (mut read, mut write) = client.split();
            let mut received = Vec::new();
            let (wrote, read) = tokio::join!(
                async {
                    write.write_all(&sent).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut received)
            );
            wrote.unwrap();
            read.unwrap();
            assert!(received == sent);
        },
        async |mut host| {
            let (mut read, mut write) = host.split();
            let mut buffer = vec![0; 100_000];
            loop {
                let length = read.read(&mut buffer).await.unwrap();
                if length == 0 {
                    break;
                }
                // Others go first, so that what is on its way piles up.
                tokio::task::yield_now().await;
                write.write_all(&buffer[..length]).await.unwrap();
            }
        },
    )
    .await;
    let length = LENGTH as u64;
    assert_eq!(
        (end, up, down),
        (End::Closed(Side::Upstream), length, length)
    );
}

/// A connection that is ended with RST once this was said.
async fn answers_and_resets(mut stream: TcpStream) {
    stream.read_exact(&mut [0]).await.unwrap();
    stream.write_all(b"enough").await.unwrap();
    stream.set_zero_linger().unwrap();
}

/// Says more than anyone reads, and listens to the end.
async fn goes_on_and_on(mut stream: TcpStream) -> Vec<u8> {
    let (mut read, mut write) = stream.split();
    let mut received = Vec::new();
    let talk = async { while write.write_all(&[7; 100_000]).await.is_ok() {} };
    let listen = async {
        while read
            .read_buf(&mut received)
            .await
            .is_ok_and(|length| length > 0)
        {}
    };
    tokio::join!(talk, listen);
    received
}

#[tokio::test]
async fn what_a_host_said_before_it_broke_is_passed_on() {
    let client = async |stream| assert_eq!(goes_on_and_on(stream).await, b"enough");
    let (end, ..) = relay(client, answers_and_resets).await;
    assert_eq!(end, End::Broken(Side::Upstream));
}

#[tokio::test]
async fn what_a_client_said_before_it_broke_is_passed_on() {
    let host = async |stream| assert_eq!(goes_on_and_on(stream).await, b"enough");
    let (end, ..) = relay(answers_and_resets, host).await;
    assert_eq!(end, End::Broken(Side::Downstream));
}
