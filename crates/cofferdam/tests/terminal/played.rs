//! A control and a guard with one agent, played by a test; and the terminal of whoever speaks to them.

use crate::screen::{PATIENCE, Terminal};
use axum::extract::ws::{Message, WebSocket};
use axum::extract::{Path, Query, State, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use model::egress::{OpenQuestion, Questions};
use model::{AgentId, ExecId, QuestionId};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, watch};

/// Something that the agent does.
#[derive(Clone)]
enum Does {
    Writes(String),
    Ends(i32),
}

struct Shared {
    agent: AgentId,
    address: String,
    questions: watch::Sender<Questions>,
    answers: Mutex<Vec<(String, Value)>>,
    watched: Mutex<usize>,
    /// What came in as input.
    read: watch::Sender<String>,
    does: broadcast::Sender<Does>,
}

/// An installation that a test plays.
pub struct Played {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl Played {
    pub fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let shared = Arc::new(Shared {
            agent: AgentId::new(),
            address: format!("http://{}", listener.local_addr().unwrap()),
            questions: watch::Sender::new(Questions { revision: 1, items: Vec::new() }),
            answers: Mutex::default(),
            watched: Mutex::default(),
            read: watch::Sender::new(String::new()),
            does: broadcast::Sender::new(64),
        });
        let router = Router::new()
            .route("/v1/agents/{agent}", get(agent))
            .route("/v1/agents/{agent}/token", post(token))
            .route("/v1/agents/{agent}/execs/attach", get(attach))
            .route("/v1/egress/questions", get(questions))
            .route("/v1/egress/questions/{id}/answer", post(answer))
            .with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { shared, _runtime: runtime }
    }

    fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("COFFERDAM_URL", &self.shared.address),
            ("COFFERDAM_API_KEY", "key"),
            ("TERM", "xterm"),
            ("SHELL", "/bin/sh"),
        ]
    }

    /// Without a terminal.
    pub fn start_exec(&self, args: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
        command.args(args).envs(self.environment()).env_remove("COFFERDAM_CONTEXT");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// At a terminal, which script(1) makes.
    pub fn terminal(&self, args: &[&str]) -> Terminal {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
        command.args(args).envs(self.environment()).env_remove("COFFERDAM_CONTEXT");
        Terminal::start(&command)
    }

    fn does(&self, what: Does) {
        let start = Instant::now();
        while self.shared.does.send(what.clone()).is_err() {
            assert!(start.elapsed() < PATIENCE, "nobody is attached");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The agent writes.
    pub fn writes(&self, text: &str) {
        self.does(Does::Writes(text.to_owned()));
    }

    /// The agent's process ends.
    pub fn ends(&self, code: i32) {
        self.does(Does::Ends(code));
    }

    /// What came in, once it is so many bytes; more of it would be there a moment later.
    pub fn reads(&self, bytes: usize) -> String {
        let start = Instant::now();
        while self.shared.read.borrow().len() < bytes {
            assert!(start.elapsed() < PATIENCE, "{:?} came in", *self.shared.read.borrow());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        self.shared.read.borrow().clone()
    }

    /// The agent wants to connect.
    pub fn asks(&self, host: &str, seconds: i64) {
        let now = OffsetDateTime::now_utc();
        let question = OpenQuestion {
            id: QuestionId::new(),
            agent: self.shared.agent,
            name: "worker".parse().unwrap(),
            host: host.to_owned(),
            port: 443,
            asked: now,
            until: now + time::Duration::seconds(seconds),
        };
        self.shared.questions.send_modify(|questions| {
            questions.revision += 1;
            questions.items.push(question);
        });
    }

    /// It waits no longer.
    pub fn settles(&self, host: &str) {
        self.shared.questions.send_modify(|questions| {
            questions.revision += 1;
            questions.items.retain(|question| question.host != host);
        });
    }

    /// What was decided, by host.
    pub fn answers(&self) -> Vec<(String, Value)> {
        self.shared.answers.lock().unwrap().clone()
    }

    /// How often somebody asked for questions.
    pub fn watched(&self) -> usize {
        *self.shared.watched.lock().unwrap()
    }
}

type Stage = State<Arc<Shared>>;

async fn agent(State(shared): Stage) -> Json<Value> {
    let of = |prefix: &str| format!("{prefix}_{}", "0".repeat(26));
    let policy = json!({ "version": 1, "egress": { "preset": "allowlist", "unknown": "hold" } });
    Json(json!({
        "id": shared.agent, "name": "worker", "account": of("acc"), "state": "running", "level": "container",
        "policy": policy, "policy_revision": 1, "claim": "none", "evidence": [], "volume": of("vol"),
        "node": of("nod"), "labels": {}, "run_as": "agent", "resources": model::resources::Resources::default(),
        "keep_scratch": false, "generation": 1, "created_at": "2026-01-01T00:00:00Z",
        "state_since": "2026-01-01T00:00:00Z",
    }))
}

async fn token(State(shared): Stage) -> Json<Value> {
    Json(json!({ "url": shared.address, "token": "token", "expires_at": "2099-01-01T00:00:00Z" }))
}

async fn questions(State(shared): Stage, Query(query): Query<HashMap<String, String>>) -> Json<Questions> {
    *shared.watched.lock().unwrap() += 1;
    let mut questions = shared.questions.subscribe();
    let since = query.get("since").and_then(|since| since.parse::<u64>().ok());
    let wait = query.get("wait").and_then(|wait| wait.parse().ok()).unwrap_or(0);
    let changed = questions.wait_for(|questions| Some(questions.revision) != since);
    let _ = tokio::time::timeout(Duration::from_secs(wait), changed).await;
    Json(shared.questions.borrow().clone())
}

async fn answer(State(shared): Stage, Path(id): Path<QuestionId>, Json(body): Json<Value>) -> Response {
    let found = shared.questions.borrow().items.iter().find(|question| question.id == id).cloned();
    let Some(question) = found else { return StatusCode::NOT_FOUND.into_response() };
    shared.answers.lock().unwrap().push((question.host.clone(), body["decision"].clone()));
    shared.questions.send_modify(|questions| {
        questions.revision += 1;
        questions.items.retain(|question| question.id != id);
    });
    let answered = json!({ "question": question, "decision": body["decision"], "changed": [shared.agent] });
    Json(answered).into_response()
}

async fn attach(State(shared): Stage, upgrade: WebSocketUpgrade) -> Response {
    upgrade.protocols(["cofferdam.v1"]).on_upgrade(|socket| exec(shared, socket))
}

/// One exec, whose process does what the test says.
async fn exec(shared: Arc<Shared>, mut socket: WebSocket) {
    let mut does = None;
    loop {
        let next = async {
            match &mut does {
                Some(receiver) => broadcast::Receiver::<Does>::recv(receiver).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    let text: Value = serde_json::from_str(&text).unwrap();
                    // The first is what to start, others are sizes of the terminal.
                    if let Some(argv) = text.get("argv") {
                        let exec = json!({ "id": ExecId::new(), "argv": argv, "pid": 2, "tty": text.get("tty").is_some_and(|tty| !tty.is_null()), "exit": null });
                        socket.send(Message::text(exec.to_string())).await.unwrap();
                        does = Some(shared.does.subscribe());
                    }
                }
                Some(Ok(Message::Binary(data))) => {
                    let text = String::from_utf8_lossy(&data[1..]).into_owned();
                    shared.read.send_modify(|read| read.push_str(&text));
                }
                Some(Ok(_)) => {}
                _ => return,
            },
            Ok(done) = next => {
                let message = match done {
                    Does::Writes(text) => Message::binary([&[1], text.as_bytes()].concat()),
                    Does::Ends(code) => Message::text(json!({ "type": "exited", "code": code }).to_string()),
                };
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
}
