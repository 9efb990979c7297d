//! Gates with a stand-in for the jail: a script that drops the options and runs another script as the gate.

use super::spec;
use crate::gates::{Gates, Settings};
use crate::journal::Journal;
use crate::report::Reporter;
use model::gate_api::{Condition, GateAgent, ToGate};
use model::{AccountId, AgentId};
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

const JAIL: &str = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n";

struct World {
    directory: tempfile::TempDir,
    journal: Arc<Journal>,
    gates: Arc<Gates>,
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
    fn new(gate: &str) -> Self {
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
            sandbox: None,
        };
        let journal = Arc::new(Journal::open(&directory.path().join("node")).unwrap());
        let gates = Gates::open(settings, journal.clone(), Arc::new(Reporter::default())).unwrap();
        Self { directory, journal, gates, lines: BufReader::new(said).lines(), told: None }
    }

    async fn line(&mut self) -> String {
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
            ToGate::Stats { .. } | ToGate::Logs { .. } => panic!("{line}"),
        }
        let (account, agents) = self.told.clone().unwrap();
        (account, agents.into_values().collect())
    }
}

fn agent(id: AgentId, condition: Condition) -> GateAgent {
    GateAgent { id, channel: "/run/x.sock".into(), token_epoch: 1, condition, policy: None }
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
        world.gates.set(spec.account, agent(spec.id, condition), None);
        // Of an account without a gate: nobody is told.
        world.gates.set(other, agent(AgentId::new(), condition), None);
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
    world.gates.set(first, agent(id, Condition::Running), None);
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
