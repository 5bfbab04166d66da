//! Neither many bytes nor a busy runtime delays the urgent lane.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_net::TcpNet;
use meridian_peer::{CallError, Lane, PeerSettings};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep};

use crate::harness::{ECHO, GIVE, HOLD, RELEASE, SHARD, TestNode, body, loopback, settings, soon, until};

fn urgent_runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

async fn start(node: u32, urgent: &Runtime) -> TestNode {
    let settings = PeerSettings {
        urgent: Some(urgent.handle().clone()),
        ..settings(node)
    };
    TestNode::start_with(settings, Arc::new(TcpNet), loopback()).await
}

#[test]
fn large_frames_and_a_busy_main_runtime_do_not_delay_the_urgent_lane() {
    let urgent = urgent_runtime();
    let main = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (one, two) = main.block_on(async {
        let (one, two) = (start(1, &urgent).await, start(2, &urgent).await);
        one.connect(&two).await;
        // The answer of 64 MiB shows that large frames pass, and that an accepted connection moved home.
        let large = vec![Bytes::from(vec![5; 64 << 20])];
        let call = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, large);
        let answer = call.with_timeout(Duration::from_secs(120)).await;
        assert_eq!(answer.map(|answer| answer.len()), Ok(64 << 20));
        (one, two)
    });
    // From here on the main runtime stands still, in the middle of a large frame.
    let large = vec![Bytes::from(vec![5; 64 << 20])];
    let _call = one.peers.call(two.id, Lane::Bulk, ECHO, SHARD, large);
    let slowest = urgent.block_on(async {
        let mut slowest = Duration::ZERO;
        for number in 0..50 {
            let began = Instant::now();
            let answer = one
                .peers
                .call(two.id, Lane::Urgent, ECHO, SHARD, body(number))
                .await;
            assert!(answer.is_ok(), "{answer:?}");
            slowest = slowest.max(began.elapsed());
        }
        slowest
    });
    // The main runtime never goes on: who depended on it would wait without end.
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_calls_pass_large_frames_on_the_way() {
    let (one, two) = (TestNode::start(1).await, TestNode::start(2).await);
    one.connect(&two).await;
    let payload = Bytes::from(vec![5; 30 << 20]);
    let large: Vec<_> = (0..2)
        .map(|_| {
            one.peers
                .call(two.id, Lane::Bulk, ECHO, SHARD, vec![payload.clone()])
                .with_timeout(Duration::from_secs(120))
        })
        .collect();
    let mut urgent_done = 0;
    let all_large = async {
        for call in large {
            assert_eq!(call.await.map(|answer| answer.len()), Ok(payload.len()));
        }
    };
    let urgent = async {
        loop {
            let answer = one.peers.call(two.id, Lane::Urgent, ECHO, SHARD, body(1)).await;
            assert!(answer.is_ok(), "{answer:?}");
            urgent_done += 1;
        }
    };
    tokio::select! {
        () = soon(all_large) => {}
        () = urgent => {}
    }
    assert!(
        urgent_done >= 5,
        "only {urgent_done} urgent calls were answered meanwhile"
    );
}

#[tokio::test]
async fn a_node_that_answers_nothing_holds_bounded_bytes_and_nobody_else() {
    let small = |node| PeerSettings {
        queue_bytes_max: 1 << 20,
        ..settings(node)
    };
    let one = TestNode::start_with(small(1), Arc::new(TcpNet), loopback()).await;
    let two = TestNode::start_with(small(2), Arc::new(TcpNet), loopback()).await;
    let three = TestNode::start(3).await;
    one.connect(&two).await;
    one.connect(&three).await;
    // The service of node 2 holds every call, so after 1 MiB its connection is not read any more; then the
    // sockets' buffers fill, then the queue here.
    let payload = Bytes::from(vec![1; 100 << 10]);
    let mut held = Vec::new();
    let mut refused = 0;
    while refused < 100 {
        let mut call = one
            .peers
            .call(two.id, Lane::Bulk, HOLD, SHARD, vec![payload.clone()])
            .with_timeout(Duration::from_secs(120));
        match futures::poll!(&mut call) {
            std::task::Poll::Pending => held.push(call),
            std::task::Poll::Ready(answer) => {
                assert_eq!(answer, Err(CallError::QueueFull));
                refused += 1;
                sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(held.len() < 1000, "a hundred megabytes were taken");
        let queued = one.peers.stats()[0].queue_bytes;
        assert!(queued <= 1 << 20, "{queued}");
    }
    let taken = two.answers.heard.lock().len();
    assert!(
        taken <= 11,
        "node 2 took {taken} calls of 100 KiB, with room for 1 MiB"
    );
    let other = one.peers.call(three.id, Lane::Bulk, ECHO, SHARD, body(1)).await;
    assert!(other.is_ok());
    let urgent = one.peers.call(two.id, Lane::Urgent, ECHO, SHARD, body(1)).await;
    assert!(urgent.is_ok());
    // Everything goes on as soon as the node does.
    let held_count = held.len();
    let mut all = Box::pin(futures::future::join_all(held));
    let answers = loop {
        tokio::select! {
            answers = &mut all => break answers,
            () = sleep(Duration::from_millis(5)) => {
                one.peers.notify(two.id, Lane::Urgent, RELEASE, SHARD, Vec::new());
            }
        }
    };
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), held_count);
    until("the queue is empty", || one.peers.stats()[0].queue_bytes == 0).await;
}

#[tokio::test]
async fn answers_that_are_not_read_do_not_pile_up() {
    let small = |node| PeerSettings {
        queue_bytes_max: 1 << 20,
        ..settings(node)
    };
    let two = TestNode::start_with(small(2), Arc::new(TcpNet), loopback()).await;
    let mut raw = crate::hostile::Raw::greeted(&two).await;
    // Each call of a few bytes wants an answer of 256 KiB, and nobody reads them.
    for number in 1..=400 {
        let call = crate::hostile::frame(1, number, GIVE, &(256_u64 << 10).to_le_bytes());
        if tokio::time::timeout(Duration::from_millis(200), raw.send(&call))
            .await
            .is_err()
        {
            break;
        }
    }
    until("one was served", || !two.answers.heard.lock().is_empty()).await;
    sleep(Duration::from_millis(100)).await;
    let served = two.answers.heard.lock().len();
    // What the sockets hold, and 1 MiB; by far not a hundred megabytes.
    assert!(
        (1..200).contains(&served),
        "{served} answers of 256 KiB were made"
    );
}
