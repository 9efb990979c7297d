//! Against the platform's own processes: secrets that leak, doors of other accounts, a gate that was taken over, a
//! control that dies at the worst moment.

use crate::faults::eventually;
use model::token::Scope;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::World;

const SCOPES: [Scope; 4] = [Scope::Exec, Scope::Files, Scope::Logs, Scope::Ports];

/// A secret, and what it is.
struct Secret {
    what: &'static str,
    text: String,
}

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&path, found),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
}

/// Which of the secrets the bytes hold.
fn holds<'a>(bytes: &[u8], secrets: &'a [Secret]) -> Vec<&'a str> {
    let within =
        |secret: &&Secret| bytes.windows(secret.text.len()).any(|part| part == secret.text.as_bytes());
    secrets.iter().filter(within).map(|secret| secret.what).collect()
}

/// Whether others than the owner can get at a file: by its mode, or that of a directory above it within `top`.
fn closed(file: &Path, top: &Path) -> bool {
    let mut paths = file.ancestors().take_while(|path| *path != top);
    paths.any(|path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 == 0))
}

#[test]
fn no_secret_is_written_anywhere() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let planted = "planted-93b1f0c47d2a";
    // By name, so that it stands in no command line of ours.
    let mut create = world.command(&["create", "--name", "keeper", "--image", "debian", "-e", "PLANTED"]);
    assert!(create.env("PLANTED", planted).stdout(Stdio::null()).status().expect("create").success());
    assert_eq!(world.sh("keeper", "echo $PLANTED").ok().out.trim(), planted);
    let (runtime, control) = world.control();
    let token = runtime.block_on(control.workspace_token("keeper", &SCOPES)).expect("a token");
    let bootstrap = world.cli(&["control", "--bootstrap", "another"]).json();
    let bootstrap = bootstrap["bootstrap_token"].as_str().expect("a token").to_owned();
    let secrets = [
        Secret { what: "the API key", text: world.api_key() },
        Secret { what: "the workspace token", text: token.token.clone() },
        Secret { what: "the bootstrap token", text: bootstrap.clone() },
        Secret { what: "the planted variable", text: planted.to_owned() },
        // Whatever others there are: bootstrap and callback tokens, and every token that the CLI was given.
        Secret { what: "a node's token", text: "cofn_".to_owned() },
        Secret { what: "a bootstrap token", text: "cofb_".to_owned() },
        Secret { what: "a signed token", text: "eyJ0eXAiOi".to_owned() },
    ];
    // All of them used, in right and in wrong ways, at every door.
    let host = format!("127.0.0.1:{}", world.control_port);
    let guard = token.url.trim_start_matches("http://").to_owned();
    for secret in secrets.iter().take(3) {
        for (host, path) in [
            (&host, "/v1/whoami"),
            (&host, "/node/v1/desired"),
            (&host, "/v1/agents/keeper/token"),
            (&guard, "/v1/agents/agt_x/execs"),
            (&guard, "/v1/healthz"),
        ] {
            for method in ["GET", "POST", "BREW"] {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\
                     Content-Type: application/json\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{{x}}",
                    secret.text
                );
                exchange(host, request.as_bytes());
            }
        }
    }
    // What a process writes when it is killed, when it ends cleanly, and when everything does.
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
        for pid in [world.pid_of("control"), world.pid_of("node")].into_iter().flatten() {
            rustix::process::kill_process(pid_of(pid), signal).expect("it is ours");
        }
        // Both are back when an agent runs again.
        eventually("control and node", || world.cli(&["run", "--image", "debian", "--", "true"]).code == 0);
        assert_eq!(leaks(&world, &secrets), [""; 0], "after {signal:?}");
    }
    world.down();
    assert_eq!(leaks(&world, &secrets), [""; 0], "after down");
    world.up();
    eventually("the agent", || world.sh("keeper", "echo $PLANTED").out.trim() == planted);
    assert_eq!(leaks(&world, &secrets), [""; 0], "after another up");
}

/// Where secrets lie that should not: in files of the world (logs, data, runtime files), and in what the kernel tells
/// of processes.
fn leaks(world: &World, secrets: &[Secret]) -> Vec<String> {
    let mut found = Vec::new();
    files(world.dir(), &mut found);
    let mut leaks = Vec::new();
    for file in found {
        let relative = file.strip_prefix(world.dir()).expect("beneath").to_path_buf();
        // Images and volumes are not the platform's words; the volume is the agent's own.
        if relative.starts_with("data/images") || relative.starts_with("data/volumes") {
            continue;
        }
        let bytes = fs::read(&file).unwrap_or_default();
        for what in holds(&bytes, secrets) {
            let own = match what {
                // Where the person at the command line keeps it.
                "the API key" => relative.starts_with("home/.config"),
                // What an agent is to be given lies where desired state lies, for their owners' eyes only.
                "the planted variable" => {
                    ["data/control", "data/node", "run/journal"].iter().any(|kept| relative.starts_with(kept))
                }
                // A bootstrap token that nobody has redeemed yet waits for its node.
                _ => false,
            };
            if !own || !closed(&file, world.dir()) {
                leaks.push(format!("{what} in {}", relative.display()));
            }
        }
    }
    // Of the platform's own processes nothing may show at all; of others, no secret of this world.
    let ours: Vec<String> = world
        .leftovers()
        .processes
        .iter()
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    for entry in fs::read_dir("/proc").expect("/proc").filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) || name == std::process::id().to_string() {
            continue;
        }
        let secrets = if ours.contains(&name) { secrets } else { &secrets[..4] };
        for part in ["cmdline", "environ"] {
            let bytes = fs::read(entry.path().join(part)).unwrap_or_default();
            for what in holds(&bytes, secrets) {
                leaks.push(format!("{what} in /proc/{name}/{part}"));
            }
        }
    }
    leaks
}

fn pid_of(pid: i32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(pid).expect("a pid")
}

/// Sends bytes and reads whatever comes until the end.
fn exchange(address: &str, request: &[u8]) -> String {
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a timeout");
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Makes a second account in a running world, with its key, and the base image in it.
pub(crate) fn second_account(world: &World) -> client::Control {
    use sha2::Digest;
    let key = "cof_of-the-second-account";
    let hash = sha2::Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    let (runtime, first) = world.control();
    runtime.block_on(async {
        let path = world.dir().join("data/control/cofferdam.db");
        let clock = Arc::new(model::clock::SystemClock);
        let store = store::Store::open(&path, clock, Arc::new(|_, _| {})).await.expect("the database");
        let account = store::NewAccount {
            name: "second".parse().expect("a name"),
            key: "first".parse().expect("a name"),
            hash,
        };
        let account = store.create_account(store::Actor::System, &account).await.expect("an account");
        let url = format!("http://127.0.0.1:{}", world.control_port);
        let second = client::Control::new(&url, Some(key.to_owned())).expect("a client");
        let image = first.images().await.expect("images").pop().expect("the base image");
        let model::api::Image { name, digest, size, config, .. } = image;
        let image = model::api::RegisterImage { name, digest, size, config, packages: None, voucher: None };
        // To know a digest is not to have the image; an operator may give it.
        let known = second.register_image(&image).await.expect_err("it is another's");
        assert!(known.to_string().contains("vouch"), "{known}");
        let grant = model::api::GrantImage { account };
        first.grant_image(image.name.as_str(), &grant).await.expect("the image");
        second
    })
}

#[test]
fn two_accounts_have_two_doors() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("mine", &[]);
    let second = second_account(&world);
    let (runtime, first) = world.control();
    runtime.block_on(async {
        let create = serde_json::json!({"name": "theirs", "image": "debian"});
        let create = serde_json::from_value(create).expect("a request");
        let theirs = second.create_agent(&create).await.expect("an agent");
        let theirs = second.wait_agent(&theirs.id.to_string(), "running", 60).await.expect("it runs");
        let mine = first.agent("mine").await.expect("an agent");
        assert_ne!(mine.account, theirs.account);
        assert_eq!(mine.node, theirs.node, "one machine");
        let token =
            |control: client::Control, id: String| async move { control.workspace_token(&id, &SCOPES).await };
        let my_token = token(first.clone(), mine.id.to_string()).await.expect("a token");
        let their_token = token(second.clone(), theirs.id.to_string()).await.expect("a token");
        assert_ne!(my_token.url, their_token.url, "each account's gate has an address of its own");
        // Neither by id nor by name, neither to look at nor to enter nor to order.
        for (control, other) in [(&first, &theirs), (&second, &mine)] {
            for reference in [other.id.to_string(), other.name.to_string()] {
                assert!(control.agent(&reference).await.is_err_and(|error| error.is_not_found()));
                assert!(
                    token(control.clone(), reference.clone()).await.is_err_and(|error| error.is_not_found())
                );
                let destroyed = control.verb(&reference, model::Verb::Destroy).await;
                assert!(destroyed.is_err_and(|error| error.is_not_found()));
            }
            let listed = control.agents(&client::AgentFilter::default()).await.expect("a list");
            assert!(listed.iter().all(|agent| agent.account != other.account));
            let events = control.events(1000).await.expect("events");
            assert!(events.iter().all(|event| event.subject != other.id.to_string()));
        }
        // Every token at every gate for every agent: only its own opens.
        for (gate, at) in [(&my_token, &mine), (&their_token, &theirs)] {
            for (token, of) in [(&my_token, &mine), (&their_token, &theirs)] {
                for agent in [&mine, &theirs] {
                    let host = gate.url.trim_start_matches("http://");
                    let request = format!(
                        "GET /v1/agents/{}/processes HTTP/1.1\r\nHost: {host}\r\n\
                         Authorization: Bearer {}\r\nConnection: close\r\n\r\n",
                        agent.id, token.token
                    );
                    let answer = exchange(host, request.as_bytes());
                    let opens = at.id == of.id && of.id == agent.id;
                    let expected = if opens { 200 } else { 404 };
                    assert_eq!(status(&answer), expected, "{opens}: {answer}");
                }
            }
        }
        // Each gate runs under an id of its own, and cannot see the other's sockets.
        let gates: Vec<_> = fs::read_dir(world.dir().join("run/gates")).expect("gates").collect();
        let owners: Vec<(u32, u32)> = gates
            .iter()
            .map(|gate| gate.as_ref().expect("an entry").metadata().expect("metadata"))
            .map(|meta| (meta.gid(), meta.mode() & 0o7777))
            .collect();
        assert!(owners.len() == 2 && owners[0].0 != owners[1].0, "{owners:?}");
        assert!(owners.iter().all(|(_, mode)| *mode == 0o750), "{owners:?}");
        second.verb("theirs", model::Verb::Destroy).await.expect("destroyed");
        second.wait_agent(&theirs.id.to_string(), "destroyed", 60).await.expect("destroyed");
    });
}

/// What a program finds that runs as a gate does.
const PROBE: &str = r#"
import os, socket, sys
sockets, control, forbidden = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
bad = []
def tried(what, attempt):
    try: bad.append((what, repr(attempt())[:200]))
    except (OSError, PermissionError): pass
for path in forbidden + ['/etc/passwd', '/etc/shadow', '/root', '/home', '/var', '/proc/1/cmdline', '/sys/kernel', '/run']:
    tried('list ' + path, lambda: os.listdir(path) or (_ for _ in ()).throw(OSError()))
    tried('read ' + path, lambda: open(path, 'rb').read(10))
for path in ('/', '/usr', sockets, '/dev', '/dev/shm'):
    tried('write in ' + path, lambda: open(path + '/x', 'w'))
tried('control', lambda: socket.create_connection(('127.0.0.1', control), 2))
tried('elsewhere', lambda: socket.create_connection(('192.0.2.1', 80), 2))
tried('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\0of-the-host'))
tried('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
tried('vsock', lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
tried('kill', lambda: os.kill(os.getppid(), 0))
tried('setuid', lambda: os.setuid(0))
tried('setgid', lambda: os.setgid(0))
if os.getgroups(): bad.append(('groups', os.getgroups()))
print(sorted(os.listdir('/')), sorted(os.listdir(sockets)))
print(bad)
sys.exit(bool(bad))
"#;

#[test]
fn a_gate_that_was_taken_over_reaches_its_agents_alone() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("one", &[]);
    let second = second_account(&world);
    let (runtime, _) = world.control();
    runtime.block_on(async {
        let create = serde_json::json!({"name": "theirs", "image": "debian"});
        let theirs = second.create_agent(&serde_json::from_value(create).expect("a request")).await;
        let theirs = theirs.expect("an agent");
        second.wait_agent(&theirs.id.to_string(), "running", 60).await.expect("it runs");
    });
    // The gate that runs: nothing is left of its rights, and its network is not the host's.
    let gate = world.pid_of("gate").expect("a gate");
    let status = fs::read_to_string(format!("/proc/{gate}/status")).expect("its status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&field(name), 16), Ok(0), "{name}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    for namespace in ["net", "mnt", "ipc", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).expect("a namespace");
        assert_ne!(of(&gate.to_string()), of("self"), "{namespace}");
    }
    let uid = field("Uid").split_whitespace().next().expect("a uid").to_owned();
    // Another program in the same place, without the gate's own locks: as when those had a hole.
    let gates = world.dir().join("run/gates");
    let entries: Vec<PathBuf> =
        fs::read_dir(&gates).expect("gates").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(entries.len(), 2);
    let of = |own: bool| {
        let gid: u32 = uid.parse().expect("a number");
        entries.iter().find(|path| (fs::metadata(path).expect("metadata").gid() == gid) == own).expect("one")
    };
    let (sockets, others) = (of(true), of(false));
    let built = std::env::current_exe().expect("the test knows its own path");
    let jail = built.ancestors().nth(2).expect("tests lie in target/release/deps").join("cofferdam-jail");
    let mut command = Command::new(&jail);
    command.args(["confine", "--uid", &uid, "--gid", &uid, "--ro", "/usr", "--ro", "/lib"]);
    if Path::new("/lib64").exists() {
        command.args(["--ro", "/lib64"]);
    }
    command.arg("--ro").arg(sockets).args(["--", "/usr/bin/python3", "-c", PROBE]);
    command.arg(sockets).arg(world.control_port.to_string()).arg(others);
    for path in ["data", "data/node", "data/control", "run/agents", "run/journal", "etc", "home"] {
        command.arg(world.dir().join(path));
    }
    let _abstract = {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name("of-the-host").expect("a name");
        std::os::unix::net::UnixListener::bind_addr(&address).expect("an abstract socket")
    };
    let output = command.env_clear().stdin(Stdio::null()).output().expect("the jail");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    // What it is there for still works, by the gate in the same confinement.
    assert_eq!(world.sh("one", "echo served").ok().out, "served\n");
    runtime.block_on(async {
        let theirs = second.verb("theirs", model::Verb::Destroy).await.expect("destroyed");
        second.wait_agent(&theirs.id.to_string(), "destroyed", 60).await.expect("destroyed");
    });
}

#[test]
fn whatever_kills_control_no_change_is_without_its_event() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let (runtime, control) = world.control();
    for round in 0..8u32 {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (world, done) = (&world, &done);
                scope.spawn(move || {
                    let (runtime, control) = world.control();
                    let mut turn = 0;
                    while !done.load(Ordering::Relaxed) {
                        turn += 1;
                        runtime.block_on(disturb(&control, &format!("n{round}-{worker}-{turn}")));
                    }
                });
            }
            // Some changes later, in the midst of others.
            std::thread::sleep(std::time::Duration::from_millis(150 + u64::from(round) * 37));
            let pid = world.pid_of("control").expect("control runs");
            rustix::process::kill_process(pid_of(pid), rustix::process::Signal::KILL).expect("it is ours");
            done.store(true, Ordering::Relaxed);
        });
        let back = runtime.block_on(async {
            for _ in 0..600 {
                if control.healthz().await.is_ok() {
                    return true;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            false
        });
        assert!(back, "control did not come back");
        runtime.block_on(check_ledger(&control));
    }
}

/// Changes of every kind that an account can make. Whether they succeed is no matter.
async fn disturb(control: &client::Control, name: &str) {
    let key = serde_json::from_value(serde_json::json!({"name": name})).expect("a request");
    if let Ok(key) = control.create_key(&key).await {
        let _ = control.remove_key(&key.id.to_string()).await;
    }
    let create = serde_json::json!({"name": name, "image": "debian", "resources": {"disk": "64MiB"}});
    if let Ok(create) = serde_json::from_value(create)
        && let Ok(agent) = control.create_agent(&create).await
    {
        let _ = control.verb(&agent.id.to_string(), model::Verb::Stop).await;
        let _ = control.verb(&agent.id.to_string(), model::Verb::Destroy).await;
    }
}

/// Holds everything that the account has against its events: one for each change, none without.
async fn check_ledger(control: &client::Control) {
    // What nodes report goes on: what changed in between is looked at again.
    let mut left = 20;
    loop {
        let before = control.events(100_000).await.expect("events");
        let mut agents = control.agents(&client::AgentFilter::default()).await.expect("agents");
        let gone = client::AgentFilter { state: Some(model::AgentState::Destroyed), labels: Vec::new() };
        agents.extend(control.agents(&gone).await.expect("agents"));
        let keys = control.keys().await.expect("keys");
        let after = control.events(100_000).await.expect("events");
        if before.len() != after.len() {
            left -= 1;
            assert!(left > 0, "it does not come to rest");
            continue;
        }
        let mut told: BTreeMap<&str, Vec<&model::api::Event>> = BTreeMap::new();
        for event in after.iter().rev() {
            told.entry(&event.subject).or_default().push(event);
        }
        let count = |kind: &str| after.iter().filter(|event| event.kind == kind).count();
        assert_eq!(count("agent.created"), agents.len());
        assert_eq!(count("key.created"), keys.len() + count("key.deleted"));
        for agent in &agents {
            let id = agent.id.to_string();
            let events = &told[id.as_str()];
            assert_eq!(events[0].kind, "agent.created", "{events:?}");
            // A chain without a gap, which ends with what is so now.
            let mut state = serde_json::json!("provisioning");
            let mut generation = 1;
            for event in &events[1..] {
                if event.detail.get("from").is_none() {
                    continue;
                }
                assert_eq!(event.detail["from"], state, "a move without its event: {events:?}");
                state = event.detail["to"].clone();
                let next = event.detail["generation"].as_u64().expect("a generation");
                assert!(
                    next == generation || next == generation + 1,
                    "an order without its event: {events:?}"
                );
                generation = next;
            }
            let now = (serde_json::to_value(agent.state).expect("a state"), agent.generation);
            assert_eq!((state, generation), now, "{events:?}");
        }
        return;
    }
}
