//! Each load, for a moment, through a bare relay.

use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;

/// An address that relays to this backend as long as the `LocalSet` runs.
async fn relay_to(bare: Bare, backend: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move { bare.serve(&listener, backend).await });
    address
}

#[tokio::test]
async fn every_bare_relay_carries_transfers() {
    for bare in [Bare::Splice, Bare::Copy256, Bare::Copy8] {
        let run = async {
            let address = relay_to(bare, backend::transfer().unwrap()).await;
            for line in [&[Line::Up], &[Line::Down], &[Line::Both]] {
                for pace in [Pace::Saturate, Pace::Rate(100.0)] {
                    let load =
                        Load::Transfer(line).drive(address, pace, Duration::from_millis(100));
                    let sample = load.await.unwrap();
                    assert_eq!(sample.failed, 0);
                    assert_eq!(sample.latencies.len() as u64, sample.done);
                }
            }
        };
        LocalSet::new().run_until(run).await;
    }
}

#[tokio::test]
async fn new_connections_are_answered() {
    let run = async {
        for (backend, message) in [
            (backend::echo().unwrap(), HELLO),
            (start_http(Protocol::Http1).unwrap(), GET),
        ] {
            let address = relay_to(Bare::Copy8, backend).await;
            for pace in [Pace::Saturate, Pace::Rate(100.0)] {
                let load = Load::Say(message).drive(address, pace, Duration::from_millis(200));
                assert_eq!(load.await.unwrap().failed, 0);
            }
            let open = load::open(address, 10);
            if message.request == HELLO.request {
                assert_eq!(open.await.unwrap().len(), 10);
            }
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_wrong_answer_counts_as_failed() {
    let run = async {
        let address = relay_to(Bare::Copy8, backend::echo().unwrap()).await;
        let wrong = Message {
            is_answer: |_| Ok(Some(false)),
            ..HELLO
        };
        let failed = load::connect(
            address,
            wrong,
            Pace::Rate(100.0),
            Duration::from_millis(100),
        );
        assert!(failed.await.is_err());
    };
    LocalSet::new().run_until(run).await;
}
