//! Gates with a stand-in for the jail: a script that drops the options and runs another script as the gate.

use super::spec;
use crate::Egress;
use crate::gates::{Gates, Settings};
use crate::journal::Journal;
use crate::outbox::Outbox;
use model::egress::Attention;
use model::gate_api::{Condition, FromGateSockets, GateAgent, ToGate, ToGateSockets, Unconnected};
use model::{AccountId, AgentId};
use sandbox::Doors;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

const JAIL: &str = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n";

pub(super) struct World {
    pub directory: tempfile::TempDir,
    journal: Arc<Journal>,
    outbox: Arc<Outbox>,
    pub gates: Arc<Gates>,
    lines: tokio::io::Lines<BufReader<pipe::Receiver>>,
    told: Option<(AccountId, BTreeMap<AgentId, GateAgent>)>,
}

fn script(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

impl World {
    /// `gate` is what the gate does; what it writes to descriptor 9 is a line of the test.
    pub fn new(gate: &str) -> Self {
        Self::with(gate, Egress::default())
    }

    pub fn with(gate: &str, mut egress: Egress) -> Self {
        // Only where a test is about them.
        if egress.roots == Egress::default().roots {
            egress.roots = "/nowhere".into();
        }
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("said");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        // Both ways, so that it stays open while no gate runs.
        let said = pipe::OpenOptions::new().read_write(true).open_receiver(&fifo).unwrap();
        let gate = format!("#!/bin/sh\nexec 9>{}\n{gate}", fifo.display());
        let settings = Settings {
            directory: directory.path().join("gates"),
            guard: "127.0.0.1:0".parse().unwrap(),
            // Nobody else's: whatever runs under these is ended.
            uid_first: 0x6a00_0000,
            jail: script(&directory.path().join("jail"), JAIL),
            program: script(&directory.path().join("gate"), &gate),
            linger: std::time::Duration::from_millis(50),
            egress,
            tools: BTreeMap::new(),
            sandbox: None,
        };
        let journal = Arc::new(Journal::open(&directory.path().join("node"), directory.path()).unwrap());
        let outbox = Arc::new(Outbox::default());
        let gates = Gates::open(settings, journal.clone(), Arc::default(), outbox.clone()).unwrap();
        Self { directory, journal, outbox, gates, lines: BufReader::new(said).lines(), told: None }
    }

    pub async fn line(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(20), self.lines.next_line()).await;
        line.expect("the gate says nothing").unwrap().unwrap()
    }

    /// All that the gate knows once it heard one more line; it begins with the whole.
    async fn state(&mut self) -> (AccountId, Vec<GateAgent>) {
        let line = self.line().await;
        let keyed = |agents: Vec<GateAgent>| agents.into_iter().map(|agent| (agent.id, agent));
        match serde_json::from_str(&line).unwrap() {
            ToGate::State { account, agents, .. } => self.told = Some((account, keyed(agents).collect())),
            ToGate::Agents { set, gone } => {
                let (_, known) = self.told.as_mut().expect("the whole comes first");
                known.extend(keyed(set));
                known.retain(|id, _| !gone.contains(id));
            }
            _ => panic!("{line}"),
        }
        let (account, agents) = self.told.clone().unwrap();
        (account, agents.into_values().collect())
    }
}

pub(super) fn agent(id: AgentId, condition: Condition) -> GateAgent {
    GateAgent { id, channel: "/run/x.sock".into(), token_epoch: 1, condition, policy: None, authority: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_knows_its_account_and_comes_back() {
    // Says each line that it hears, and dies over the third.
    let mut world = World::new(
        "[ \"$1\" = gate ] || exit 1\nfor n in 1 2 3; do read -r line <&3 || exit; echo \"$line\" >&9; done\n",
    );
    let spec = spec();
    let address = world.gates.ensure(spec.account).unwrap();
    assert_eq!(address, world.gates.ensure(spec.account).unwrap());
    assert_eq!(world.state().await, (spec.account, Vec::new()));
    let other = AccountId::new();
    for condition in [Condition::Running, Condition::Paused] {
        world.gates.set(spec.account, agent(spec.id, condition), None, None);
        // Of an account without a gate: nobody is told.
        world.gates.set(other, agent(AgentId::new(), condition), None, None);
        assert_eq!(world.state().await, (spec.account, vec![agent(spec.id, condition)]));
    }
    // It died: the next one hears the whole at once, and the socket stayed.
    world.told = None;
    assert_eq!(world.state().await, (spec.account, vec![agent(spec.id, Condition::Paused)]));
    TcpStream::connect(address.url.strip_prefix("http://").unwrap()).unwrap();
    let mode = std::fs::metadata(&address.directory).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o750);
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_share_nothing_but_the_address() {
    let mut world = World::new("read -r line <&3; echo \"$line\" >&9; read -r line <&3; read -r line <&3\n");
    let [first, second] = [AccountId::new(), AccountId::new()];
    let one = world.gates.ensure(first).unwrap();
    let two = world.gates.ensure(second).unwrap();
    assert!(one.gid != two.gid && one.url != two.url && one.directory != two.directory);
    let (a, b) = (world.state().await.0, world.state().await.0);
    assert!([a, b] == [first, second] || [a, b] == [second, first]);
    // The next node gives each what it had: sockets of living agents belong to these groups.
    let places = std::fs::read_to_string(world.journal.root().join("gates.json")).unwrap();
    assert!(places.contains(&first.to_string()) && places.contains(&two.gid.to_string()), "{places}");
    assert!(world.directory.path().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_raves_is_replaced() {
    let mut world = World::new(
        "read -r line <&3; echo heard >&9; echo '{\"type\":\"launch\"}' >&3; read -r line <&3; read -r line <&3\n",
    );
    world.gates.ensure(AccountId::new()).unwrap();
    assert_eq!(world.line().await, "heard");
    assert_eq!(world.line().await, "heard", "another was started in its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_goes_with_its_last_agent() {
    let mut world = World::new("while read -r line <&3; do echo \"$line\" >&9; done; echo end >&9\n");
    let [first, second] = [AccountId::new(), AccountId::new()];
    let before = world.gates.ensure(first).unwrap();
    world.state().await;
    let id = AgentId::new();
    world.gates.set(first, agent(id, Condition::Running), None, None);
    world.state().await;
    world.gates.remove(first, id);
    assert_eq!(world.state().await, (first, Vec::new()));
    assert_eq!(world.line().await, "end");
    // Its place is free when its process is gone, and nothing of it is left.
    let gone = async {
        while before.directory.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    let after = world.gates.ensure(second).unwrap();
    assert_eq!((after.gid, &after.url), (before.gid, &before.url));
}

/// Doors that anybody could make, and where the one for TCP is.
fn doors() -> (Arc<Doors>, SocketAddr) {
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    // A port that was asked for by its number is kept when the door is shut.
    let tcp = (0..100).find_map(|_| TcpListener::bind(free().unwrap()).ok()).unwrap();
    let address = tcp.local_addr().unwrap();
    let doors = Doors { tcp: tcp.into(), udp: UdpSocket::bind("127.0.0.1:0").unwrap().into() };
    doors.shut().unwrap();
    (Arc::new(doors), address)
}

/// Has the next test stand in for a gate, with its sockets as standard input; what it says is a line of the test.
fn with_sockets(what: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let name = "tests::gates::a_gate_with_sockets";
    format!(
        "DOES={what} exec {} --ignored --exact {name} --nocapture <&5 2>&9 >/dev/null\n",
        program.display()
    )
}

#[test]
#[ignore = "the tests below start it"]
fn a_gate_with_sockets() {
    let Ok(does) = std::env::var("DOES") else { return };
    let stdin = std::io::stdin();
    let receive = || jail::wire::receive::<ToGateSockets>(stdin.as_fd()).unwrap().expect("node is there");
    let ask = |question: FromGateSockets| {
        jail::wire::send(stdin.as_fd(), &question, &[]).unwrap();
        receive()
    };
    let (first, fds) = receive();
    let ToGateSockets::Doors { agent } = first else { panic!("{first:?}") };
    eprintln!("doors of {agent}, {}", fds.len());
    let connect = |request, agent, address: &str| FromGateSockets::Connect {
        request,
        agent,
        address: address.parse().unwrap(),
    };
    match does.split_once(',').unwrap_or((&does, "")) {
        ("serve", _) => {
            let listener = TcpListener::from(fds.into_iter().next().unwrap());
            // It can be read from, however often the door was shut before.
            listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
            eprintln!("served");
        }
        ("wait", _) => eprintln!("{:?}", receive().0),
        ("dial", there) => {
            for (number, (agent, address)) in [
                (AgentId::new(), "1.1.1.1:443"),
                (AgentId::new(), there),
                (agent, "10.0.0.1:443"),
                (agent, "169.254.169.254:80"),
                (agent, "[::1]:443"),
                (agent, "[::ffff:127.0.0.1]:443"),
                (agent, "0.0.0.0:443"),
                (agent, "127.0.0.2:443"),
            ]
            .into_iter()
            .enumerate()
            {
                let request = number as u64;
                let (answer, fds) = ask(connect(request, agent, address));
                assert_eq!(
                    answer,
                    ToGateSockets::Failed { request, why: Unconnected::Forbidden },
                    "{address}"
                );
                assert!(fds.is_empty());
            }
            let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            let (answer, _) = ask(connect(20, agent, &closed));
            assert_eq!(answer, ToGateSockets::Failed { request: 20, why: Unconnected::Refused });
            for question in [connect(21, agent, there), FromGateSockets::Resolver { request: 21 }] {
                let (answer, fds) = ask(question);
                assert_eq!(answer, ToGateSockets::Connected { request: 21 });
                let [connection] = <[OwnedFd; 1]>::try_from(fds).unwrap();
                let mut connection = TcpStream::from(connection);
                assert!(connection.nodelay().unwrap());
                connection.set_nonblocking(false).unwrap();
                connection.write_all(b"x").unwrap();
                connection.read_exact(&mut [0]).unwrap();
            }
            eprintln!("dialled");
            receive();
        }
        ("rave", _) => {
            let long = "x".repeat(2000);
            jail::wire::send(stdin.as_fd(), &long, &[]).unwrap();
            receive();
        }
        _ => panic!("{does}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doors_are_handed_to_each_gate_and_shut_without_one() {
    let mut world = World::new(&with_sockets("serve"));
    let spec = spec();
    world.gates.ensure(spec.account).unwrap();
    let (doors, address) = doors();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    world.gates.set(spec.account, agent(spec.id, Condition::Running), None, Some(doors.clone()));
    for round in 0..2 {
        assert_eq!(world.line().await, format!("doors of {}, 2", spec.id));
        if round == 1 {
            // There will be no other.
            std::fs::remove_file(world.directory.path().join("gate")).unwrap();
        }
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(b"x").unwrap();
        assert_eq!(world.line().await, "served");
    }
    let refused = async {
        while TcpStream::connect(address).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_hears_that_doors_are_gone() {
    let mut world = World::new(&with_sockets("wait"));
    let spec = spec();
    world.gates.ensure(spec.account).unwrap();
    let (doors, _) = doors();
    let weak = Arc::downgrade(&doors);
    world.gates.set(spec.account, agent(spec.id, Condition::Running), None, Some(doors));
    assert_eq!(world.line().await, format!("doors of {}, 2", spec.id));
    world.gates.set(spec.account, agent(spec.id, Condition::Stopped), None, None);
    assert_eq!(world.line().await, format!("{:?}", ToGateSockets::Closed { agent: spec.id }));
    assert!(weak.upgrade().is_none(), "node holds nothing of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_connects_for_agents_of_the_account_to_what_is_public_or_open() {
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in echo.incoming() {
            let mut connection = connection.unwrap();
            let mut byte = [0];
            if connection.read_exact(&mut byte).is_ok() {
                let _ = connection.write_all(&byte);
            }
        }
    });
    let egress = Egress {
        open: vec!["127.0.0.1".into()],
        resolver: model::Resolver::plain(there),
        ..Egress::default()
    };
    let mut world = World::with(&with_sockets(&format!("dial,{there}")), egress);
    let spec = spec();
    world.gates.ensure(spec.account).unwrap();
    world.gates.set(spec.account, agent(spec.id, Condition::Running), None, Some(doors().0));
    assert_eq!(world.line().await, format!("doors of {}, 2", spec.id));
    assert_eq!(world.line().await, "dialled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_raves_about_sockets_is_replaced() {
    let mut world = World::new(&with_sockets("rave"));
    let spec = spec();
    world.gates.ensure(spec.account).unwrap();
    world.gates.set(spec.account, agent(spec.id, Condition::Running), None, Some(doors().0));
    let mut began = 0;
    while began < 2 {
        began += usize::from(world.line().await.starts_with("doors of"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_outlive_a_gate_and_end_with_the_doors() {
    let spec = spec();
    let named = |name: &str| {
        format!("echo '{{\"type\":\"named\",\"agent\":\"{}\",\"name\":\"{name}\"}}' >&3\n", spec.id)
    };
    let hear = "read -r line <&3 || exit; echo \"$line\" >&9\n";
    let stranger = named("c.example").replace(&spec.id.to_string(), &AgentId::new().to_string());
    // Once it was answered, all before that was read.
    let ask = format!("echo '{{\"type\":\"stats_wanted\",\"request\":1,\"agent\":\"{}\"}}' >&3\n", spec.id);
    let names = [named("b.example"), named("a.example"), named("b.example"), stranger].concat();
    let mut world = World::new(&[hear, hear, &names, &ask, hear].concat());
    let told = |line: &str| match serde_json::from_str(line).unwrap() {
        ToGate::State { names, .. } => names,
        other => panic!("{other:?}"),
    };
    world.gates.ensure(spec.account).unwrap();
    assert_eq!(told(&world.line().await), BTreeMap::new());
    let doors = doors().0;
    world.gates.set(spec.account, agent(spec.id, Condition::Running), None, Some(doors.clone()));
    assert!(world.line().await.contains("\"set\""));
    assert!(world.line().await.contains("\"stats\""));
    // That one died. The next is told, in this order.
    let known = BTreeMap::from([(spec.id, vec!["b.example".to_owned(), "a.example".to_owned()])]);
    assert_eq!(told(&world.line().await), known);
    world.gates.set(spec.account, agent(spec.id, Condition::Paused), None, Some(doors));
    assert!(world.line().await.contains("\"set\""));
    assert!(world.line().await.contains("\"stats\""));
    assert_eq!(told(&world.line().await), known);
    // Without doors it has no names, and gets none.
    world.gates.set(spec.account, agent(spec.id, Condition::Stopped), None, None);
    assert!(world.line().await.contains("\"set\""));
    assert!(world.line().await.contains("\"stats\""));
    assert_eq!(told(&world.line().await), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_none_ends_a_gate() {
    for name in ["", "UPPER.example", "a b", &"x".repeat(254)] {
        let said = format!("{{\"type\":\"named\",\"agent\":\"{}\",\"name\":\"{name}\"}}", AgentId::new());
        let mut world =
            World::new(&format!("echo began >&9; echo '{said}' >&3; read -r l <&3; read -r l <&3\n"));
        world.gates.ensure(AccountId::new()).unwrap();
        assert_eq!([world.line().await, world.line().await], ["began", "began"], "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_agents_ask_and_what_is_said_of_it_goes_both_ways() {
    let spec = spec();
    let at = "2026-01-02T03:04:05Z";
    let asks = |agent: AgentId| {
        format!(
            "echo '{{\"type\":\"asks\",\"agent\":\"{agent}\",\"questions\":[{{\"host\":\"a.example\",\"port\":443,\"asked\":\"{at}\",\"until\":\"{at}\"}}]}}' >&3\n"
        )
    };
    let left = |agent: AgentId, kind: &str| {
        format!(
            "echo '{{\"type\":\"egress\",\"agent\":\"{agent}\",\"connection\":{{\"at\":\"{at}\",\"host\":\"{kind}.example\",\"outcome\":\"denied\",\"by\":\"unknown\",\"sent\":0,\"received\":0,\"duration_ms\":0,\"count\":1}}}}' >&3\n"
        )
    };
    let hear = "read -r line <&3 || exit; echo \"$line\" >&9\n";
    let stranger = AgentId::new();
    let says = [asks(spec.id), asks(stranger), left(spec.id, "own"), left(stranger, "strange")].concat();
    let ask = format!("echo '{{\"type\":\"stats_wanted\",\"request\":1,\"agent\":\"{}\"}}' >&3\n", spec.id);
    // The second gate says nothing.
    let once =
        format!("[ -e \"$0.once\" ] && exec sleep 60; : >\"$0.once\"\n{hear}{hear}{hear}{says}{ask}{hear}");
    let late = left(spec.id, "late");
    let mut world = World::new(&format!("{once}read -r gone <&3\n{late}read -r end <&3\n"));
    world.gates.ensure(spec.account).unwrap();
    world.line().await;
    world.gates.set(spec.account, agent(spec.id, Condition::Running), None, None);
    world.line().await;
    let watched =
        |agent| Attention { agent, watched_until: Some(OffsetDateTime::UNIX_EPOCH), answers: Vec::new() };
    world.gates.set_attention(vec![watched(stranger)]);
    world.gates.set_attention(vec![watched(stranger), watched(spec.id)]);
    match serde_json::from_str(&world.line().await).unwrap() {
        ToGate::Attention { agents } => {
            assert_eq!(agents, [watched(spec.id)], "of its account's agents alone")
        }
        other => panic!("{other:?}"),
    }
    assert!(world.line().await.contains("\"stats\""));
    let report = world.outbox.take().unwrap().report;
    let hosts: Vec<_> = report.records.iter().map(|record| record.connection.host.as_str()).collect();
    assert_eq!(hosts, ["own.example"]);
    let waiting = report.questions.unwrap();
    assert_eq!(waiting.iter().map(|waiting| waiting.agent).collect::<Vec<_>>(), [spec.id]);
    // With the agent ends what it waited for, and its gate tells how its connections ended.
    world.gates.remove(spec.account, spec.id);
    let (mut hosts, mut waiting) = (Vec::new(), None);
    while hosts.is_empty() {
        let Some(taken) = world.outbox.take() else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let report = taken.report;
        hosts.extend(report.records.into_iter().map(|record| record.connection.host));
        waiting = waiting.or(report.questions);
    }
    assert_eq!((hosts, waiting), (vec!["late.example".to_owned()], Some(Vec::new())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_no_gate_makes_ends_it() {
    let said = format!(
        "{{\"type\":\"egress_lost\",\"agent\":\"{0}\",\"count\":1}}\n{{\"type\":\"asks\",\"agent\":\"{0}\",\"questions\":[{{\"host\":\"a b\",\"port\":1,\"asked\":\"2026-01-02T03:04:05Z\",\"until\":\"2026-01-02T03:04:05Z\"}}]}}",
        AgentId::new()
    );
    let mut world = World::new(&format!("echo began >&9; echo '{said}' >&3; read -r l <&3; read -r l <&3\n"));
    world.gates.ensure(AccountId::new()).unwrap();
    assert_eq!([world.line().await, world.line().await], ["began", "began"]);
}
