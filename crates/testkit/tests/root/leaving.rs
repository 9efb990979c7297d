//! More of the way out: how much may leave, and who is asked for names.

use super::egress::make_with;
use std::time::{Duration, Instant};
use testkit::{Internet, Speaks, World};

/// Says this many bytes to a server that sends them back, and prints what it heard in all.
const SAYS: &str = r#"
import socket, sys, threading
def main(count):
    there = socket.create_connection(("ssh.example.com", 22), 20)
    heard = len(there.recv(15))
    def say():
        try:
            there.sendall(b"\x07" * count)
            there.shutdown(socket.SHUT_WR)
        except OSError:
            pass
    threading.Thread(target=say, daemon=True).start()
    try:
        while True:
            some = there.recv(65536)
            if not some:
                break
            heard += len(some)
    except OSError:
        pass
    return heard
try:
    print(main(int(sys.argv[1])))
except OSError as error:
    print("refused", error)
"#;

const POLICY: &str = r#"
version = 1
[egress]
preset = "none"
[egress.limits]
sent_per_day = "1MiB"
[[egress.rule]]
action = "allow"
host = "ssh.example.com"
ports = [22]
"#;

fn internet() -> Internet {
    testkit::ensure_image();
    let net = Internet::enter();
    net.name("ssh.example.com", &["51.15.0.2"]);
    net.serve("51.15.0.2:22", Speaks::First("SSH-2.0-there\r\n"));
    net
}

fn says(world: &World, agent: &str, bytes: &str) -> String {
    world.python(agent, "agent", &[], SAYS, &[bytes]).out.trim().to_owned()
}

#[test]
fn an_egress_limit_ends_what_is_open_and_what_comes() {
    if !testkit::can_run() {
        return;
    }
    let net = internet();
    let world = World::start_in(&net);
    for level in ["process", "container"] {
        make_with(&world, level, level, POLICY);
        assert_eq!(says(&world, level, "500000"), "500015", "{level}");
        // What is too much does not come back, for it never left.
        let heard: usize = says(&world, level, "4000000").parse().unwrap();
        assert!(heard < (1 << 20) - 500_000 + 15, "{level}: {heard}");
        let reached = net.reached().len();
        assert!(says(&world, level, "1").contains("refused"), "{level}");
        assert_eq!(net.reached().len(), reached);
        let begun = Instant::now();
        loop {
            let log = world.cli(&["egress", "log", level, "-o", "json"]).ok().out;
            if log.contains("refused by limit sent_per_day") && log.contains("\"by\": \"limit sent_per_day\"")
            {
                break;
            }
            assert!(begun.elapsed() < testkit::patience(30), "{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn egress_asks_for_names_by_tls_of_whom_is_meant() {
    if !testkit::can_run() {
        return;
    }
    let net = internet();
    for (resolver, expected) in [
        ("tls://9.9.9.9#dns.example.net", "16"),
        ("tls://9.9.9.9#other.example.net", "refused"),
        // A port at which DNS is spoken in the clear.
        ("tls://9.9.9.9:53#dns.example.net", "refused"),
    ] {
        let before = net.asked().len();
        let world = World::start_in_with(&net, resolver);
        make_with(&world, "one", "process", POLICY);
        let heard = says(&world, "one", "1");
        assert!(heard.starts_with(expected), "{resolver}: {heard}");
        assert_eq!(net.asked().len() > before, expected == "16", "{resolver}");
        assert_eq!(net.asked_in_the_clear(), Vec::<String>::new(), "{resolver}");
        world.down();
    }
}
