//! The way out: what a policy lets through gets through, and nothing else leaves, from inside a small internet whose private
//! networks, metadata services and other people's servers are all there to be reached.

use std::fs;
use std::net::IpAddr;
use testkit::{Answer, Internet, Reached, Speaks, World};

const INSIDE: &str = include_str!("inside/egress.py");

const POLICY: &str = r#"
version = 1
[egress]
preset = "none"
[[egress.rule]]
action = "allow"
host = "api.example.com"
ports = [443]
[[egress.rule]]
action = "allow"
host = "*.deep.example.com"
ports = [443]
[[egress.rule]]
action = "allow"
host = "front.example.com"
[[egress.rule]]
action = "allow"
host = "plain.example.com"
ports = [80]
[[egress.rule]]
action = "allow"
host = "ssh.example.com"
ports = [22]
[[egress.rule]]
action = "allow"
host = "inside.example.com"
[[egress.rule]]
action = "allow"
host = "meta.example.com"
[[egress.rule]]
action = "allow"
host = "rebound.example.com"
[[egress.rule]]
action = "allow"
host = "mixed.example.com"
"#;

/// Names that the policy allows: only these may be asked for.
const ALLOWED: [&str; 8] = ["api", "a.b.deep", "plain", "ssh", "inside", "meta", "rebound", "mixed"];

/// Servers that the policy allows somebody to reach.
const OPEN: [&str; 6] = [
    "51.15.0.1:443",
    "[2a00:1111::1]:443",
    "51.15.0.2:80",
    "[2a00:1111::1]:80",
    "51.15.0.2:22",
    "[2a00:1111::1]:22",
];

/// An internet with everything in it that the scripts inside know, and an installation in it.
pub fn begin() -> (Internet, World) {
    testkit::ensure_image();
    let net = Internet::enter();
    for name in ["api.example.com", "a.b.deep.example.com", "front.example.com"] {
        net.name(name, &["51.15.0.1", "2a00:1111::1"]);
    }
    net.name("plain.example.com", &["51.15.0.2", "2a00:1111::1"]);
    net.name("ssh.example.com", &["51.15.0.2", "2a00:1111::1"]);
    for name in ["evil.example.net", "example.com", "notexample.com"] {
        net.name(name, &["51.15.0.3", "2a00:1111::2"]);
    }
    net.name(
        "inside.example.com",
        &[
            "10.1.2.3",
            "172.16.5.5",
            "192.168.7.7",
            "100.64.1.1",
            "fd00::5",
            "64:ff9b::a01:203",
            "127.0.0.1",
            "::1",
        ],
    );
    net.name("metadata.example.net", &["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"]);
    net.answer("meta.example.com", Answer::Alias("metadata.example.net".to_owned()));
    net.name("mixed.example.com", &["10.1.2.3", "fd00::5"]);
    let turns =
        [["51.15.0.9"], ["10.1.2.3"]].map(|turn| turn.map(|text| text.parse::<IpAddr>().unwrap()).to_vec());
    net.answer("rebound.example.com", Answer::Rebinding(turns.to_vec()));
    let names = || vec!["api.example.com", "front.example.com", "a.b.deep.example.com", "evil.example.net"];
    for (at, speaks) in [
        ("51.15.0.1:443", Speaks::Tls(names())),
        ("[2a00:1111::1]:443", Speaks::Tls(names())),
        ("51.15.0.2:80", Speaks::Http),
        ("[2a00:1111::1]:80", Speaks::Http),
        ("51.15.0.2:22", Speaks::First("SSH-2.0-there\r\n")),
        ("[2a00:1111::1]:22", Speaks::First("SSH-2.0-there\r\n")),
    ] {
        net.serve(at, speaks);
    }
    // All that nobody may reach.
    for host in [
        "51.15.0.3",
        "10.1.2.3",
        "172.16.5.5",
        "192.168.7.7",
        "100.64.1.1",
        "169.254.169.254",
        "198.18.77.77",
        "[2a00:1111::2]",
        "[fd00::5]",
        "[fd00:ec2::254]",
        "[64:ff9b::a01:203]",
    ] {
        net.serve(&format!("{host}:80"), Speaks::Http);
        net.serve(&format!("{host}:443"), Speaks::Tls(names()));
        net.serve(&format!("{host}:53"), Speaks::First("a resolver"));
    }
    net.serve("51.15.0.1:8443", Speaks::Http);
    net.serve("51.15.0.1:80", Speaks::Http);
    let world = World::start_in(&net);
    (net, world)
}

/// Makes an agent with the policy of these tests.
pub fn make(world: &World, name: &str, level: &str) {
    make_with(world, name, level, POLICY);
}

/// Makes an agent with a policy.
pub fn make_with(world: &World, name: &str, level: &str, policy: &str) {
    let file = world.dir().join("policy.toml");
    fs::write(&file, policy).unwrap();
    let policy = file.display().to_string();
    let mut args = vec!["--level", level, "--policy", &policy];
    if level == "container" {
        args.extend(["--image", "debian"]);
    }
    world.create(name, &args);
    let ca = world.dir().join("ca.pem").display().to_string();
    world.cli(&["cp", &ca, &format!("{name}:/tmp/ca.pem")]).ok();
}

/// What was reached that may not be.
fn leaks(net: &Internet) -> Vec<Reached> {
    let mut found = net.reached();
    found.retain(|reached| {
        let open = OPEN.contains(&reached.at.to_string().as_str());
        let other =
            ["evil", "smuggled", "bare", "/second", "CONNECT"].iter().any(|word| reached.said.contains(word));
        !open || other
    });
    found
}

fn lines(ran: &testkit::Ran) -> Vec<(String, String)> {
    let pairs =
        ran.out.lines().filter_map(|line| line.split_once(": b'").or_else(|| line.split_once(": b\"")));
    pairs.map(|(name, got)| (name.to_owned(), got.to_owned())).collect()
}

fn the_way_out(level: &str) {
    if !testkit::can_run() {
        return;
    }
    let (net, world) = begin();
    make(&world, "one", level);
    let control = format!("CONTROL={}", world.control_port);
    for family in ["4", "6"] {
        let ran = world.python("one", "agent", &[], INSIDE, &["works", family]);
        let works = lines(&ran);
        let expected = [
            ("tls", "HTTP/1.1 200 OK"),
            ("deep", "HTTP/1.1 200 OK"),
            ("http", "GET /two"),
            ("banner", "SSH-2.0-there\\r\\nand back"),
            ("loopback", "own own own"),
        ];
        for (name, says) in expected {
            let got = works.iter().find(|(is, _)| is == name).map(|(_, got)| got.as_str());
            assert!(
                got.is_some_and(|got| got.contains(says)),
                "{level}, IPv{family}: {name}: {got:?}\n{}",
                ran.err
            );
        }
        assert_eq!(leaks(&net), []);
        let ran = world.python("one", "agent", &[&control], INSIDE, &["attacks", family]);
        let attacks = lines(&ran);
        eprintln!("{level}, IPv{family}:\n{}{}", ran.out, ran.err);
        assert!(attacks.len() > 50, "{}", ran.err);
        assert_eq!(leaks(&net), [], "{level}, IPv{family}");
    }
    let asked = net.asked();
    let known = |name: &String| ALLOWED.iter().any(|allowed| *name == format!("{allowed}.example.com"));
    let strange: Vec<_> = asked.iter().filter(|name| !known(name)).collect();
    assert!(strange.is_empty(), "somebody outside was asked for {strange:?}");
}

#[test]
fn the_way_out_of_a_container() {
    the_way_out("container");
}

#[test]
fn the_way_out_of_an_os_user() {
    the_way_out("process");
}
