//! What is written down of what leaves an agent, and hosts that nothing names: they wait for a person.

use crate::egress::{begin, make, make_with};
use client::{Control, EgressFilter};
use model::AgentId;
use model::egress::{Decision, LogEntry, OpenQuestion, Outcome};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use testkit::World;
use tokio::runtime::Runtime;

/// Connects by TLS to a host, and says in one line what came of it.
const CALL: &str = r#"
import socket, ssl, sys
made = ssl.create_default_context()
made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
name = sys.argv[1]
try:
    with socket.create_connection((name, 443), timeout=60) as raw, made.wrap_socket(raw, server_hostname=name) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: " + name.encode() + b"\r\nConnection: close\r\n\r\n")
        print(stream.recv(65536).split(b"\r\n")[0].decode())
except OSError as error:
    print(type(error).__name__)
"#;

const ASKS: &str = r#"
version = 1
[egress]
preset = "allowlist"
unknown = "hold"
[[egress.rule]]
action = "deny"
host = "evil.example.net"
"#;

struct Person {
    runtime: Runtime,
    control: Control,
}

impl Person {
    fn new(world: &World) -> Self {
        let (runtime, control) = world.control();
        Self { runtime, control }
    }

    /// Has the agent connect to a host until that waits, for its gate hears a moment later than we that somebody is there.
    fn waits(&self, world: &World, agent: &str, host: &str) -> (Child, OpenQuestion) {
        let mut since = None;
        let mut child = call(world, agent, host);
        loop {
            let questions = self.control.egress_questions(Some(agent), since, 1);
            let questions = self.runtime.block_on(questions).unwrap();
            since = Some(questions.revision);
            if let Some(question) = questions.items.into_iter().find(|question| question.host == host) {
                return (child, question);
            }
            if child.try_wait().unwrap().is_some() {
                assert_eq!(said(child), "gaierror");
                child = call(world, agent, host);
            }
        }
    }

    fn decide(&self, question: &OpenQuestion, decision: Decision) {
        self.runtime.block_on(self.control.answer_question(question.id, decision)).unwrap();
    }

    /// Nothing of the agent waits; waits for that.
    fn settled(&self, agent: &str) {
        let mut since = None;
        loop {
            let questions =
                self.runtime.block_on(self.control.egress_questions(Some(agent), since, 30)).unwrap();
            since = Some(questions.revision);
            if questions.items.is_empty() {
                return;
            }
        }
    }

    /// The first record of the log that fits; waits until it is there.
    fn record(&self, agent: AgentId, fits: impl Fn(&LogEntry) -> bool) -> LogEntry {
        let filter = EgressFilter { agent: Some(agent.to_string()), ..EgressFilter::default() };
        let mut after = 0;
        loop {
            let log = self.runtime.block_on(self.control.egress_log_after(&filter, after, 30)).unwrap();
            assert!(!log.is_empty(), "nothing more is written down");
            after = log.last().map_or(after, |entry| entry.id);
            if let Some(found) = log.into_iter().find(&fits) {
                return found;
            }
        }
    }
}

fn id(world: &World, agent: &str) -> AgentId {
    world.cli(&["show", agent, "-o", "json"]).json()["id"].as_str().unwrap().parse().unwrap()
}

fn call(world: &World, agent: &str, host: &str) -> Child {
    let mut command = world.command(&["exec", agent, "--", "python3", "-c", CALL, host]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn said(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn what_leaves_is_written_down_and_outlives_the_agent() {
    if !testkit::can_run() {
        return;
    }
    let (_net, world) = begin();
    make(&world, "one", "process");
    let (person, agent) = (Person::new(&world), id(&world, "one"));
    assert_eq!(said(call(&world, "one", "api.example.com")), "HTTP/1.1 200 OK");
    assert_eq!(said(call(&world, "one", "evil.example.net")), "gaierror");
    let passed = person.record(agent, |entry| entry.connection.outcome == Outcome::Passed).connection;
    assert_eq!(
        (passed.host.as_str(), passed.port, passed.by.as_str()),
        ("api.example.com", Some(443), "rule 1")
    );
    assert!(passed.sent > 100 && passed.received > 500, "{passed:?}");
    let denied = person.record(agent, |entry| entry.connection.outcome == Outcome::Denied).connection;
    assert_eq!((denied.host.as_str(), denied.port), ("evil.example.net", None));
    let shown = world.cli(&["egress", "log", "one", "-o", "json"]).ok().out;
    assert!(shown.contains("api.example.com") && shown.contains("evil.example.net"), "{shown}");
    let learnt = world.cli(&["egress", "learn", "one"]).ok().out;
    assert!(learnt.contains("host = \"api.example.com\""), "{learnt}");
    assert!(!learnt.contains("host = \"evil.example.net\""), "{learnt}");
    world.cli(&["rm", "--force", "one"]).ok();
    let events = world.cli(&["events", "-n", "100", "-o", "json"]).json();
    let denials = events.as_array().unwrap().iter().filter(|event| event["kind"] == "egress.denied");
    let hosts: Vec<_> = denials.map(|event| event["detail"]["host"].as_str().unwrap().to_owned()).collect();
    assert_eq!(hosts, ["evil.example.net"]);
    person.record(agent, |entry| entry.connection.outcome == Outcome::Passed);
}

#[test]
fn hosts_that_nothing_names_wait_for_a_person() {
    if !testkit::can_run() {
        return;
    }
    let (net, world) = begin();
    make_with(&world, "one", "process", ASKS);
    make_with(&world, "two", "process", ASKS);
    let person = Person::new(&world);
    // Nobody is there: it does not wait.
    assert_eq!(said(call(&world, "one", "api.example.com")), "gaierror");
    let agent = id(&world, "one");

    let (waits, question) = person.waits(&world, "one", "api.example.com");
    assert_eq!((question.agent, question.port), (agent, 443));
    assert_eq!(net.asked(), Vec::<String>::new(), "nothing is asked of anybody before somebody decided");
    person.decide(&question, Decision::Once);
    assert_eq!(said(waits), "HTTP/1.1 200 OK");
    person
        .record(agent, |entry| entry.connection.by == "once" && entry.connection.outcome == Outcome::Passed);
    person.settled("one");

    // A port that nobody has is no question, which node would not believe: the gate lives.
    let gate = world.pid_of("gate").unwrap();
    let odd = "import socket; s = socket.socket(); s.settimeout(5); s.connect((\"1.1.1.1\", 0)); s.recv(1)";
    assert_ne!(world.cli(&["exec", "one", "--", "python3", "-c", odd]).code, 0);
    assert_eq!(world.pid_of("gate"), Some(gate));

    // What is denied for good never asks, and the other agent's are its own.
    assert_eq!(said(call(&world, "one", "evil.example.net")), "gaierror");
    assert_eq!(said(call(&world, "two", "api.example.com")), "gaierror");

    // Once was once; a person who says no is not asked again at once.
    let (waits, question) = person.waits(&world, "one", "api.example.com");
    person.decide(&question, Decision::Deny);
    assert!(said(waits).contains("Reset"));
    person.settled("one");
    let begun = Instant::now();
    assert_ne!(said(call(&world, "one", "api.example.com")), "HTTP/1.1 200 OK");
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited");

    // For this agent from now on: no question any more.
    let (waits, question) = person.waits(&world, "one", "front.example.com");
    person.decide(&question, Decision::Agent);
    assert_eq!(said(waits), "HTTP/1.1 200 OK");
    assert_eq!(said(call(&world, "one", "front.example.com")), "HTTP/1.1 200 OK");

    // For all that ask, those to come too.
    let (waits, question) = person.waits(&world, "one", "a.b.deep.example.com");
    person.decide(&question, Decision::Always);
    assert_eq!(said(waits), "HTTP/1.1 200 OK");
    make_with(&world, "three", "process", ASKS);
    for agent in ["one", "two", "three"] {
        assert_eq!(said(call(&world, agent, "a.b.deep.example.com")), "HTTP/1.1 200 OK", "{agent}");
    }
    assert_eq!(said(call(&world, "three", "front.example.com")), "gaierror");

    // A gate that dies takes with it what waits, and nothing is left to decide; the next one asks anew.
    let (waits, _) = person.waits(&world, "one", "plain.example.com");
    let gate = world.pid_of("gate").unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(gate).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert_ne!(said(waits), "HTTP/1.1 200 OK");
    person.settled("one");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let came = said(call(&world, "one", "front.example.com"));
        if came == "HTTP/1.1 200 OK" {
            break;
        }
        assert!(Instant::now() < deadline, "the next gate lets nothing pass: {came}");
    }
}
