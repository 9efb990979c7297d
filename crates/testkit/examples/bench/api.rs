//! What control answers by itself: no agent is made, its node is stopped.

use crate::rows::{Rows, Target, quantile};
use crate::session::{self, Session};
use rustix::process::{Pid, Signal, kill_process};
use std::cell::Cell;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connections that ask at once.
const CONNECTIONS: usize = 64;
const LASTS: Duration = Duration::from_secs(5);
/// What a list is a page of.
const AGENTS: u64 = 10_000;
/// Pages each second.
const PAGES: u32 = 1_000;

/// Requests each second, and how long a page takes.
pub fn measure(rows: &mut Rows) {
    eprintln!("control alone");
    let session = &Session::holding(AGENTS as u32 + 100);
    let agent = session.wait(session::create(&session.control, session.request()));
    let node = session.world.pid_of("node").and_then(Pid::from_raw).expect("a node");
    kill_process(node, Signal::STOP).expect("the node waits");
    let api = Api { address: session.world.control_address(), key: session.world.api_key() };
    let get = api.request("GET", &format!("/v1/agents/{}", agent.id), "");
    let reads = session.wait(api.load(LASTS, u64::MAX, |_| get.clone(), "200"));
    rows.add("one agent, read by an authenticated GET", "1/s", reads.rate(), None, Target::AtLeast(10_000.0));
    let create = |index: u64| {
        let body = format!(r#"{{"name":"many-{index}","labels":{{"bench":"yes"}}}}"#);
        api.request("POST", "/v1/agents", &body)
    };
    let created = session.wait(api.load(Duration::MAX, AGENTS, create, "201"));
    rows.add("create without a boundary, durable", "1/s", created.rate(), None, Target::AtLeast(3_000.0));
    let page = api.request("GET", "/v1/agents?limit=100", "");
    let pages = session.wait(api.paced(LASTS, PAGES, &page));
    rows.add(
        "a page of 100 out of 10,000, 1,000 times a second, p99",
        "ms",
        quantile(&pages, 0.99),
        None,
        Target::AtMost(5.0),
    );
    rows.add("  p50", "ms", quantile(&pages, 0.5), None, Target::None);
    kill_process(node, Signal::CONT).expect("the node goes on");
}

struct Api {
    address: String,
    key: String,
}

/// What was answered, and in which time.
struct Load {
    answers: u64,
    took: Duration,
}

impl Load {
    fn rate(&self) -> f64 {
        self.answers as f64 / self.took.as_secs_f64()
    }
}

impl Api {
    fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let (host, key, length) = (&self.address, &self.key, body.len());
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// Asks on all connections, one request after the other, until the time is over or so many are answered.
    async fn load(&self, lasts: Duration, most: u64, request: impl Fn(u64) -> Vec<u8>, status: &str) -> Load {
        let (asked, answers) = (Cell::new(0), Cell::new(0));
        let (asked, answers, request) = (&asked, &answers, &request);
        let started = Instant::now();
        let ask = || async move {
            let mut connection = Connection::open(&self.address).await;
            while asked.get() < most && started.elapsed() < lasts {
                let index = asked.replace(asked.get() + 1);
                connection.ask(&request(index), status).await;
                answers.set(answers.get() + 1);
            }
        };
        together((0..CONNECTIONS).map(|_| ask())).await;
        Load { answers: answers.get(), took: started.elapsed() }
    }

    /// Asks so many times each second, whether or not answers have come, and tells how long each took since it was due.
    async fn paced(&self, lasts: Duration, rate: u32, request: &[u8]) -> Vec<Duration> {
        let every = Duration::from_secs(1) / rate;
        let all = (lasts.as_secs_f64() * f64::from(rate)) as u32;
        let next = &Cell::new(0);
        let started = Instant::now();
        let ask = || async move {
            let mut connection = Connection::open(&self.address).await;
            let mut took = Vec::new();
            loop {
                let index = next.replace(next.get() + 1);
                if index >= all {
                    return took;
                }
                let due = started + every * index;
                tokio::time::sleep_until(due.into()).await;
                connection.ask(request, "200").await;
                took.push(due.elapsed());
            }
        };
        together((0..CONNECTIONS).map(|_| ask())).await.into_iter().flatten().collect()
    }
}

/// Runs these at once, on this thread.
async fn together<T>(tasks: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures_util::future::join_all(tasks).await
}

/// A connection that is kept. Less than a client: it should take no time from what is measured.
struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("control listens");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, read: Vec::new() }
    }

    async fn ask(&mut self, request: &[u8], status: &str) {
        self.stream.write_all(request).await.expect("sent");
        self.read.clear();
        loop {
            let count = self.stream.read_buf(&mut self.read).await.expect("an answer");
            assert!(count > 0, "control closed the connection");
            let Some(head) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&self.read[..head]);
            assert_eq!(text.split(' ').nth(1), Some(status), "{}", String::from_utf8_lossy(&self.read));
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
            if self.read.len() >= head + 4 + length {
                return;
            }
        }
    }
}
