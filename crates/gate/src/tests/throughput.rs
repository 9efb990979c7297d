//! Backpressure, and a figure for how fast bytes pass (printed, not judged).

use super::world::*;
use ::channel::{Kind, Request};
use futures_util::StreamExt;
use model::ExecId;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PIECE: usize = 64 << 10;

async fn pour(mut peer: Peer, pieces: usize, sent: Arc<AtomicUsize>) {
    let Request::Attach { id } = peer.request().await else { return };
    peer.attached(id).await;
    let mut frame = Vec::new();
    ::channel::encode(Kind::Data1, &vec![7; PIECE], &mut frame).unwrap();
    for _ in 0..pieces {
        if !peer.bytes(&frame).await {
            return;
        }
        sent.fetch_add(PIECE, Ordering::Relaxed);
    }
    peer.exited(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_stops_the_process() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let world = World::new(move |peer| pour(peer, 16 << 10, counter.clone())).await;
    let mut socket = world.websocket(&format!("execs/{}/attach", ExecId::new())).await.unwrap();
    let mut before = usize::MAX;
    // Until nothing moves any more; what has moved then is what the buffers on the way hold.
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < 64 << 20, "{before} bytes are held somewhere");
    let mut got = 0;
    while got <= before + PIECE {
        got += socket.next().await.unwrap().unwrap().len() - 1;
    }
    assert!(sent.load(Ordering::Relaxed) > before, "it goes on once the client reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_fast_stdout_passes() {
    let pieces = 8 << 10;
    let world = World::new(move |peer| pour(peer, pieces, Arc::default())).await;
    let mut socket = world.websocket(&format!("execs/{}/attach", ExecId::new())).await.unwrap();
    let began = Instant::now();
    let mut got = 0;
    while got < pieces * PIECE {
        got += socket.next().await.unwrap().unwrap().len() - 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{} MiB in {seconds:.2} s: {:.0} MiB/s", got >> 20, (got >> 20) as f64 / seconds);
}
