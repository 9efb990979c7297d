//! What the tests share: a gate that runs, a node that feeds it, and inits that do what a test wants.

use ::channel::{
    ChannelError, Decoder, ErrorKind, Event, ExecInfo, Exit, Hello, Kind, Reply, Request, encode, encode_json,
};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use model::gate_api::{Condition, FromGate, GateAgent, ToGate};
use model::token::{Scope, VerifyingKey, WorkspaceClaims};
use model::{AccountId, AgentId, KeyId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixDatagram, UnixListener, UnixStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

/// A signing key as control has one.
pub struct Key {
    pub kid: KeyId,
    pub private: EncodingKey,
    pub x: String,
}

impl Key {
    pub fn new() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let private = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
        Self { kid: KeyId::new(), private, x: URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()) }
    }

    pub fn sign<T: Serialize>(&self, claims: &T) -> String {
        let header = Header { kid: Some(self.kid.to_string()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }

    pub fn verifying(&self) -> VerifyingKey {
        VerifyingKey { kid: self.kid, x: self.x.clone() }
    }
}

pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

pub const ALL: [Scope; 4] = [Scope::Exec, Scope::Files, Scope::Logs, Scope::Ports];

/// A gate, and node's end of its control socket.
pub struct World {
    pub key: Key,
    pub account: AccountId,
    pub agent: AgentId,
    pub port: u16,
    pub dir: tempfile::TempDir,
    pub to_gate: OwnedWriteHalf,
    pub from_gate: Lines<BufReader<OwnedReadHalf>>,
    pub running: tokio::task::JoinHandle<Result<(), crate::Error>>,
    /// Node's end of the socket for sockets; nobody uses it.
    pub _sockets: UnixDatagram,
    pub http: reqwest::Client,
}

impl World {
    /// A gate with one running agent of epoch 5, whose init is `init`.
    pub async fn new<F, H>(init: F) -> Self
    where
        F: Fn(Peer) -> H + Send + Sync + 'static,
        H: Future<Output = ()> + Send + 'static,
    {
        Self::few(1000, init).await
    }

    /// The same, which waits so long for agents that it does not know.
    pub async fn patient<F, H>(coming: Duration, init: F) -> Self
    where
        F: Fn(Peer) -> H + Send + Sync + 'static,
        H: Future<Output = ()> + Send + 'static,
    {
        Self::with(1000, coming, init).await
    }

    /// The same with places for so many connections.
    pub async fn few<F, H>(places: usize, init: F) -> Self
    where
        F: Fn(Peer) -> H + Send + Sync + 'static,
        H: Future<Output = ()> + Send + 'static,
    {
        Self::with(places, Duration::ZERO, init).await
    }

    async fn with<F, H>(places: usize, coming: Duration, init: F) -> Self
    where
        F: Fn(Peer) -> H + Send + Sync + 'static,
        H: Future<Output = ()> + Send + 'static,
    {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let guard = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = guard.local_addr().unwrap().port();
        // Every second connection is moved from one runtime to another, which happens to be the same.
        let more = vec![tokio::runtime::Handle::current()];
        let (sockets, node_sockets) = super::egress::world::pair();
        let egress = super::egress::world::settings();
        let bounds = crate::Bounds { places, coming, egress };
        let running = tokio::spawn(crate::run(theirs, guard, sockets, more, bounds));
        ours.set_nonblocking(true).unwrap();
        let (reading, to_gate) = UnixStream::from_std(ours).unwrap().into_split();
        let mut world = Self {
            key: Key::new(),
            account: AccountId::new(),
            agent: AgentId::new(),
            port,
            dir: tempfile::tempdir().unwrap(),
            to_gate,
            from_gate: BufReader::new(reading).lines(),
            running,
            _sockets: node_sockets,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        };
        serve_init(world.socket(), init);
        world.state(5, Condition::Running).await;
        assert!(matches!(world.heard().await, FromGate::Ready));
        world
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join(format!("{}.sock", self.agent.base32()))
    }

    pub async fn tell(&mut self, message: &ToGate) {
        let mut line = serde_json::to_vec(message).unwrap();
        line.push(b'\n');
        self.to_gate.write_all(&line).await.unwrap();
    }

    pub async fn state(&mut self, token_epoch: u64, condition: Condition) {
        let channel = self.socket().to_str().unwrap().to_owned();
        let agents = vec![GateAgent {
            id: self.agent,
            channel,
            token_epoch,
            condition,
            policy: None,
            authority: None,
        }];
        self.state_of(agents).await;
    }

    pub async fn state_of(&mut self, agents: Vec<GateAgent>) {
        let message = self.state_message(agents);
        self.tell(&message).await;
    }

    pub fn state_message(&self, agents: Vec<GateAgent>) -> ToGate {
        let keys = vec![self.key.verifying()];
        ToGate::State {
            installation: "here".into(),
            account: self.account,
            keys,
            agents,
            tools: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    pub async fn heard(&mut self) -> FromGate {
        let line = self.from_gate.next_line().await.unwrap().expect("the gate ended");
        serde_json::from_str(&line).unwrap()
    }

    /// Waits until the gate heard all that was said to it: it answers in order.
    pub async fn settled(&mut self) {
        self.settled_with(self.token(&ALL)).await;
    }

    /// The same with a token that is accepted once it did.
    pub async fn settled_with(&mut self, token: String) {
        let response = self.http.get(self.url("stats")).bearer_auth(token).send();
        let response = tokio::spawn(response);
        loop {
            if let FromGate::StatsWanted { request, .. } = self.heard().await {
                self.tell(&ToGate::Stats { request, stats: None }).await;
                break;
            }
        }
        response.await.unwrap().unwrap();
    }

    pub fn claims(&self, scp: &[Scope]) -> WorkspaceClaims {
        WorkspaceClaims {
            iss: "here".into(),
            sub: "usr_x".into(),
            aud: self.agent,
            acc: self.account,
            scp: scp.to_vec(),
            epoch: 5,
            jti: "1".into(),
            iat: now(),
            exp: now() + 600,
        }
    }

    pub fn token(&self, scopes: &[Scope]) -> String {
        self.key.sign(&self.claims(scopes))
    }

    pub fn url(&self, rest: &str) -> String {
        format!("http://127.0.0.1:{}/v1/agents/{}/{rest}", self.port, self.agent)
    }

    pub fn get(&self, rest: &str) -> reqwest::RequestBuilder {
        self.http.get(self.url(rest)).bearer_auth(self.token(&ALL))
    }

    pub async fn websocket(&self, rest: &str) -> Result<Socket, tungstenite::Error> {
        self.websocket_with(rest, &format!("cofferdam.v1, bearer.{}", self.token(&ALL))).await
    }

    pub async fn websocket_with(&self, rest: &str, protocols: &str) -> Result<Socket, tungstenite::Error> {
        let mut request = self.url(rest).replace("http", "ws").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        let (socket, response) = tokio_tungstenite::connect_async(request).await?;
        assert_eq!(response.headers()["sec-websocket-protocol"], "cofferdam.v1");
        Ok(socket)
    }

    /// Sends bytes as they are, and returns all that comes back.
    pub async fn raw(&self, request: &str) -> String {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer).await;
        answer
    }
}

pub type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// Status, code and field of a problem.
pub async fn problem(response: reqwest::Response) -> (u16, model::Problem) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let problem: model::Problem = response.json().await.unwrap();
    assert_eq!((problem.status, problem.request_id.as_deref()), (status, Some(id.as_str())));
    (status, problem)
}

/// The problem of a refused upgrade.
pub fn refused(error: tungstenite::Error) -> model::Problem {
    let tungstenite::Error::Http(response) = error else { panic!("{error:?}") };
    serde_json::from_slice(response.body().as_deref().unwrap_or_default()).unwrap()
}

pub fn serve_init<F, H>(path: PathBuf, init: F)
where
    F: Fn(Peer) -> H + Send + Sync + 'static,
    H: Future<Output = ()> + Send + 'static,
{
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(init(Peer { stream, decoder: Decoder::new() }));
        }
    });
}

/// An init's end of one connection.
pub struct Peer {
    pub stream: UnixStream,
    decoder: Decoder,
}

impl Peer {
    /// The next frame; `None` when the gate closed.
    pub async fn frame(&mut self) -> Option<(Kind, Vec<u8>)> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some((frame.kind, frame.payload));
            }
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.decoder.push(&buffer[..read]),
            }
        }
    }

    /// Greets and takes the request.
    pub async fn request(&mut self) -> Request {
        let (kind, payload) = self.frame().await.unwrap();
        assert_eq!(kind, Kind::Hello);
        assert_eq!(serde_json::from_slice::<Hello>(&payload).unwrap(), Hello::OURS);
        self.json(Kind::Hello, &Hello::OURS).await;
        let (kind, payload) = self.frame().await.unwrap();
        assert_eq!(kind, Kind::Request);
        serde_json::from_slice(&payload).unwrap()
    }

    /// Sends bytes; that the gate is gone is fine.
    pub async fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> bool {
        let mut out = Vec::new();
        encode(kind, payload, &mut out).unwrap();
        self.bytes(&out).await
    }

    pub async fn json<T: Serialize>(&mut self, kind: Kind, value: &T) -> bool {
        let mut out = Vec::new();
        encode_json(kind, value, &mut out).unwrap();
        self.bytes(&out).await
    }

    pub async fn reply(&mut self, reply: Reply) -> bool {
        self.json(Kind::Reply, &reply).await
    }

    pub async fn error(&mut self, kind: ErrorKind, message: &str) -> bool {
        self.json(Kind::Error, &ChannelError::new(kind, message)).await
    }

    pub async fn attached(&mut self, id: String) -> bool {
        let exec = ExecInfo { id, argv: vec!["cat".into()], pid: 7, tty: false, exit: None };
        self.reply(Reply::Attached { exec, offsets: [3, 4] }).await
    }

    pub async fn exited(&mut self, code: i32) {
        for kind in [Kind::End1, Kind::End2] {
            self.send(kind, &[]).await;
        }
        self.json(Kind::Event, &Event::Exited(Exit { code, cause: None })).await;
    }

    /// Waits until the gate closes.
    pub async fn closed(&mut self) {
        while self.frame().await.is_some() {}
    }
}

/// An init that nobody should reach.
pub async fn nobody(_: Peer) {
    panic!("nobody should have come here");
}

/// An init that is alive and says so, whatever is asked.
pub async fn done(mut peer: Peer) {
    peer.request().await;
    peer.reply(Reply::Done).await;
}

pub fn binary(stream: u8, data: &[u8]) -> Message {
    let mut message = vec![stream];
    message.extend_from_slice(data);
    Message::Binary(message.into())
}

pub fn encode_segment(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}
