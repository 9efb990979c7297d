//! What the tests of the way out share: a gate, a node that hands it doors and connects for it, servers, and a resolver.
//!
//! Everything is on loopback. A client that wants to go to an address goes to one of loopback that stands for it, as
//! TPROXY would have it; node connects to the server that stands for what it was asked for.

pub use super::node::*;
use crate::egress::Settings;
use model::egress::{Answer, Attention, Connection, Outcome, Question};
use model::gate_api::{Authority, Condition, FromGate, FromGateSockets, GateAgent, ToGate, ToGateSockets};
use model::policy::Policy;
use model::{AccountId, AgentId};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixStream};

/// What the addresses of loopback that clients connect to stand for.
static ORIGINALS: LazyLock<Mutex<HashMap<IpAddr, SocketAddr>>> = LazyLock::new(Mutex::default);
static LAST: AtomicU32 = AtomicU32::new(0x7f10_0000);

fn original(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    Ok(ORIGINALS.lock().unwrap().get(&local.ip().to_canonical()).copied().unwrap_or(local))
}

/// One of loopback that stands for this.
fn standing_for(address: SocketAddr) -> IpAddr {
    let local = Ipv4Addr::from_bits(LAST.fetch_add(1, Ordering::Relaxed)).into();
    ORIGINALS.lock().unwrap().insert(local, address);
    local
}

pub fn settings() -> Settings {
    let (hold, fold) = (Duration::from_secs(30), Duration::from_secs(1));
    Settings { flows: 1000, flows_per_agent: 500, hold, fold, original }
}

pub struct World {
    pub agent: AgentId,
    pub account: AccountId,
    pub to_gate: OwnedWriteHalf,
    pub from_gate: Lines<BufReader<OwnedReadHalf>>,
    pub sockets: Arc<UnixDatagram>,
    pub node: Arc<Node>,
    pub doors: Doors,
    pub running: tokio::task::JoinHandle<Result<(), crate::Error>>,
    /// What was heard while something else was waited for.
    pub records: VecDeque<(AgentId, Connection)>,
    others: VecDeque<FromGate>,
    /// Under what the agent is shown servers.
    pub authority: Option<Authority>,
}

/// A policy of these rules.
pub fn rules(rules: Value) -> Policy {
    let policy: Policy = serde_json::from_value(json!({"version": 1, "egress": {"rule": rules}})).unwrap();
    policy.validate(false).unwrap();
    policy
}

/// One of these rules, where a person decides on all other hosts.
pub fn holding(rules: Value) -> Policy {
    let egress = json!({"preset": "allowlist", "unknown": "hold", "rule": rules});
    let policy: Policy = serde_json::from_value(json!({"version": 1, "egress": egress})).unwrap();
    policy.validate(false).unwrap();
    policy
}

/// One that allows this host, as it is without more words.
pub fn allow(host: &str) -> Policy {
    rules(json!([{"action": "allow", "host": host}]))
}

/// One that allows anything at a port of this host.
pub fn allow_tcp(host: &str, port: u16) -> Policy {
    rules(json!([{"action": "allow", "host": host, "ports": [port], "protocol": "tcp"}]))
}

pub fn described(id: AgentId, policy: Option<Policy>) -> GateAgent {
    GateAgent {
        id,
        channel: "/nowhere".into(),
        token_epoch: 1,
        condition: Condition::Running,
        policy,
        authority: None,
    }
}

impl World {
    /// A gate with one agent of this policy.
    pub async fn new(policy: Policy) -> Self {
        Self::with(settings(), Some(policy), &[]).await
    }

    pub async fn with(settings: Settings, policy: Option<Policy>, names: &[&str]) -> Self {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let guard = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (gate, sockets) = pair();
        let bounds = crate::Bounds { places: 100, coming: Duration::ZERO, egress: settings };
        let more = vec![tokio::runtime::Handle::current()];
        let running = tokio::spawn(crate::run(theirs, guard, gate, more, bounds));
        ours.set_nonblocking(true).unwrap();
        let (reading, to_gate) = UnixStream::from_std(ours).unwrap().into_split();
        let sockets = Arc::new(sockets);
        let node = Arc::new(Node::default());
        tokio::spawn(serve_node(node.clone(), sockets.clone()));
        let agent = AgentId::new();
        let mut world = Self {
            agent,
            account: AccountId::new(),
            to_gate,
            from_gate: BufReader::new(reading).lines(),
            // Before anything else: doors may come before the agent is known.
            doors: give_doors(&sockets, agent),
            sockets,
            node,
            running,
            records: VecDeque::new(),
            others: VecDeque::new(),
            authority: None,
        };
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let state = ToGate::State {
            installation: "here".into(),
            account: world.account,
            keys: Vec::new(),
            agents: vec![described(agent, policy)],
            tools: BTreeMap::new(),
            names: BTreeMap::from([(agent, names)]),
        };
        world.tell(&state).await;
        assert!(matches!(world.heard().await, FromGate::Ready));
        world
    }

    pub async fn tell(&mut self, message: &ToGate) {
        let mut line = serde_json::to_vec(message).unwrap();
        line.push(b'\n');
        self.to_gate.write_all(&line).await.unwrap();
    }

    async fn line(&mut self) -> FromGate {
        let line = tokio::time::timeout(Duration::from_secs(5), self.from_gate.next_line()).await;
        let line = line.expect("nothing was heard").unwrap().expect("the gate ended");
        serde_json::from_str(&line).unwrap()
    }

    /// What the gate says next.
    pub async fn heard_all(&mut self) -> FromGate {
        if let Some((agent, connection)) = self.records.pop_front() {
            return FromGate::Egress { agent, connection };
        }
        match self.others.pop_front() {
            Some(other) => other,
            None => self.line().await,
        }
    }

    /// What the gate says next that is no record.
    pub async fn heard(&mut self) -> FromGate {
        loop {
            if let Some(other) = self.others.pop_front() {
                return other;
            }
            match self.line().await {
                FromGate::Egress { agent, connection } => self.records.push_back((agent, connection)),
                other => self.others.push_back(other),
            }
        }
    }

    /// The next record, which is of this world's agent.
    pub async fn record(&mut self) -> Connection {
        loop {
            if let Some((agent, connection)) = self.records.pop_front() {
                assert_eq!(agent, self.agent);
                return connection;
            }
            match self.line().await {
                FromGate::Egress { agent, connection } => self.records.push_back((agent, connection)),
                other => self.others.push_back(other),
            }
        }
    }

    /// The next record of a connection, without questions of DNS: what became of it, and who decided.
    pub async fn outcome(&mut self) -> (Outcome, String) {
        loop {
            let record = self.record().await;
            if record.port.is_some() {
                return (record.outcome, record.by);
            }
        }
    }

    /// What waits, when that changes next.
    pub async fn questions(&mut self) -> Vec<Question> {
        loop {
            if let FromGate::Asks { agent, questions } = self.heard().await {
                assert_eq!(agent, self.agent);
                return questions;
            }
        }
    }

    /// The one question that there is when that changes next.
    pub async fn question(&mut self) -> Question {
        <[_; 1]>::try_from(self.questions().await).unwrap()[0].clone()
    }

    /// Somebody looks after the agent until then, and said this.
    pub async fn attend(&mut self, watched_until: OffsetDateTime, answers: Vec<Answer>) {
        let attention = Attention { agent: self.agent, watched_until: Some(watched_until), answers };
        self.tell(&ToGate::Attention { agents: vec![attention] }).await;
    }

    /// Somebody looks after the agent from now on.
    pub async fn watch(&mut self) {
        self.attend(OffsetDateTime::now_utc() + Duration::from_secs(60), Vec::new()).await;
    }

    /// The same, and decided this.
    pub async fn answer(&mut self, question: &Question, allow: bool) {
        let Question { host, port, asked, .. } = question.clone();
        let until = OffsetDateTime::now_utc() + Duration::from_secs(60);
        self.attend(until, vec![Answer { host, port, asked, allow }]).await;
    }

    /// From now on this is the agent's policy.
    pub async fn set(&mut self, policy: Option<Policy>) {
        let set = vec![GateAgent { authority: self.authority.clone(), ..described(self.agent, policy) }];
        self.tell(&ToGate::Agents { set, gone: Vec::new() }).await;
    }

    /// The agent's boundary ends, and another begins.
    pub fn restart(&mut self) {
        say(&self.sockets, &ToGateSockets::Closed { agent: self.agent }, &[]);
        self.doors = give_doors(&self.sockets, self.agent);
    }

    /// One more agent, with doors of its own.
    pub async fn another(&mut self, policy: Policy) -> Doors {
        let id = AgentId::new();
        self.tell(&ToGate::Agents { set: vec![described(id, Some(policy))], gone: Vec::new() }).await;
        give_doors(&self.sockets, id)
    }

    /// A server that stands for this address: what it accepts.
    pub async fn server(&self, address: &str) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.route(address, Route::To(listener.local_addr().unwrap()));
        listener
    }

    pub fn route(&self, address: &str, route: Route) {
        self.node.routes.lock().unwrap().insert(address.parse().unwrap(), route);
    }

    pub fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.node.names.lock().unwrap().insert(name.to_owned(), addresses);
    }

    /// A name with one address, and the server there.
    pub async fn host(&self, name: &str, port: u16) -> TcpListener {
        self.name(name, &["93.184.216.34"]);
        self.server(&format!("93.184.216.34:{port}")).await
    }

    /// Connections that node was asked for.
    pub fn dialled(&self) -> Vec<SocketAddr> {
        let asked = self.node.asked.lock().unwrap();
        let address = |asked: &FromGateSockets| match asked {
            FromGateSockets::Connect { address, .. } => Some(*address),
            FromGateSockets::Resolver { .. } => None,
        };
        asked.iter().filter_map(address).collect()
    }

    /// A client in the agent, connected to a name, as programs do it.
    pub async fn client(&self, name: &str, port: u16) -> TcpStream {
        let address = resolve(&self.doors, name).await.unwrap();
        connect(&self.doors, SocketAddr::new(address, port)).await
    }

    /// The same as soon as the name has an address: what the gate was told last may not be in force yet.
    pub async fn client_soon(&self, name: &str, port: u16) -> TcpStream {
        connect(&self.doors, SocketAddr::new(resolve_soon(&self.doors, name).await, port)).await
    }

    /// The same to an address.
    pub async fn client_at(&self, address: &str) -> TcpStream {
        connect(&self.doors, address.parse().unwrap()).await
    }
}

/// Connects to an address, in an agent with these doors.
pub async fn connect(doors: &Doors, address: SocketAddr) -> TcpStream {
    TcpStream::connect((standing_for(address), doors.tcp)).await.unwrap()
}

/// Asks for the address of IPv4 of a name, in an agent with these doors; the error of DNS otherwise.
pub async fn resolve(doors: &Doors, name: &str) -> Result<IpAddr, u8> {
    let answer = ask(doors, &question(7, name, 1)).await;
    assert_eq!(answer[..2], [0, 7]);
    match answer[3] & 0xf {
        0 => Ok(IpAddr::V4(<[u8; 4]>::try_from(&answer[answer.len() - 4..]).unwrap().into())),
        error => Err(error),
    }
}

/// The same as soon as it has one.
pub async fn resolve_soon(doors: &Doors, name: &str) -> IpAddr {
    loop {
        match resolve(doors, name).await {
            Ok(address) => return address,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// One question to an address of the agent's network.
pub async fn ask(doors: &Doors, question: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // Answers from elsewhere are not taken.
    socket.connect(("127.9.9.9", doors.udp)).await.unwrap();
    socket.send(question).await.unwrap();
    let mut answer = vec![0; 2000];
    let length =
        tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut answer)).await.unwrap().unwrap();
    answer.truncate(length);
    answer
}

/// A question of DNS without EDNS.
pub fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// A ClientHello that asks for this name.
pub fn client_hello(name: Option<&str>) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let mut extensions = vec![0, 43, 0, 3, 2, 3, 4];
    if let Some(name) = name {
        let entry = [&[0][..], &with_length(name.as_bytes())].concat();
        extensions.extend([0, 0]);
        extensions.extend(with_length(&with_length(&entry)));
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(with_length(&extensions));
    let mut message = vec![1, 0];
    message.extend(with_length(&body));
    [&[22, 3, 1][..], &with_length(&message)].concat()
}

/// Reads so many bytes.
pub async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut bytes));
    read.await.expect("nothing came").unwrap();
    bytes
}

/// Reads all that comes, to the end; `None` when the connection was reset.
pub async fn rest(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes));
    match read.await.expect("the connection did not end") {
        Ok(_) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        Err(error) => panic!("{error}"),
    }
}

/// Accepts in time.
pub async fn accept(listener: &TcpListener) -> TcpStream {
    tokio::time::timeout(Duration::from_secs(5), listener.accept()).await.expect("nobody came").unwrap().0
}
