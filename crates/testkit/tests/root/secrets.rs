//! Secrets: the agent works with credentials that it does not have, and of no value is there a trace where it does not belong.

use rustix::fs::{SeekFrom, seek};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use testkit::{Internet, Ran, Speaks, World};

const INSIDE: &str = include_str!("inside/secrets.py");

/// Planted, to be looked for: long enough to be found, and unlike anything else.
const VALUE: &str = "sk-planted-7f3c9a1e5b8d2046";
const ROTATED: &str = "sk-planted-rotated-c0ffee4411";
/// Given to the agent itself.
const OWN: &str = "own-planted-91be77d04c";

const POLICY: &str = r#"
version = 1
[egress]
preset = "none"
[[egress.rule]]
action = "allow"
host = "api.example.com"
[[egress.rule]]
action = "allow"
host = "other.example.com"
[[egress.rule]]
action = "allow"
host = "plain.example.com"
[[egress.rule]]
action = "allow"
host = "false.example.com"
[[egress.rule]]
action = "deny"
host = "api.example.com"
methods = ["DELETE"]
[[egress.inject]]
secret = "api"
host = "api.example.com"
header = "x-api-key"
env = "API_KEY"
[[egress.inject]]
secret = "api"
host = "false.example.com"
header = "x-api-key"
"#;

/// The internet of these tests, and an installation in it that has the secrets.
fn begin() -> (Internet, World) {
    testkit::ensure_image();
    let net = Internet::enter();
    for name in ["api.example.com", "other.example.com"] {
        net.name(name, &["51.15.0.1"]);
    }
    net.name("plain.example.com", &["51.15.0.2"]);
    net.name("false.example.com", &["51.15.0.3"]);
    net.serve("51.15.0.1:443", Speaks::Tls(vec!["api.example.com", "other.example.com"]));
    net.serve("51.15.0.2:80", Speaks::Http);
    // Its certificate is for another.
    net.serve("51.15.0.3:443", Speaks::Tls(vec!["api.example.com"]));
    let world = World::start_in(&net);
    let set = |args: &[&str], value: &str| world.cli_with(args, value.as_bytes()).ok();
    set(&["secret", "set", "api", "--host", "*.example.com"], VALUE);
    set(&["secret", "set", "own"], OWN);
    (net, world)
}

/// Makes an agent with the policy of these tests, and a secret of its own.
fn make(world: &World, name: &str, level: &str) {
    let file = world.dir().join("policy.toml");
    fs::write(&file, POLICY).unwrap();
    let policy = file.display().to_string();
    let mut args =
        vec!["--level", level, "--policy", &policy, "--secret", "OWN=own", "--secret-file", "own.txt=own"];
    if level == "container" {
        args.extend(["--image", "debian"]);
    }
    world.create(name, &args);
}

fn ask(world: &World, agent: &str, words: &[&str]) -> String {
    let Ran { out, err, .. } = world.python(agent, "agent", &[], INSIDE, words);
    assert!(!out.is_empty(), "{words:?}: {err}");
    out
}

/// What the agent's programs have in a variable.
fn variable(world: &World, agent: &str, name: &str) -> String {
    world.sh(agent, &format!("printf %s \"${name}\"")).ok().out
}

/// What the last request to the server that has the credential said in its header.
fn heard(net: &Internet) -> Option<String> {
    let heard = net.heard();
    let last = heard.iter().rev().find(|heard| heard.at.to_string() == "51.15.0.1:443")?;
    last.header("x-api-key").map(str::to_owned)
}

/// Files beneath a directory that hold any of these.
fn holding(directory: &Path, values: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
        if kind.is_dir() {
            found.extend(holding(&path, values));
        } else if kind.is_file() && holds(&File::open(&path).unwrap(), values) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Whether a file holds any of these. Volumes are sparse: what is not there is not read.
fn holds(file: &File, values: &[&str]) -> bool {
    const STEP: u64 = 4 << 20;
    let mut at = 0;
    while let Ok(start) = seek(file, SeekFrom::Data(at)) {
        let end = seek(file, SeekFrom::Hole(start)).unwrap();
        for from in (start..end).step_by(STEP as usize) {
            // A value may begin in one step and end in the next.
            let mut bytes = vec![0; (end - from).min(STEP + 64) as usize];
            let read = file.read_at(&mut bytes, from).unwrap();
            let text = String::from_utf8_lossy(&bytes[..read]);
            if values.iter().any(|value| text.contains(value)) {
                return true;
            }
        }
        at = end;
    }
    false
}

fn credentials_stay_outside(level: &str) {
    if !testkit::can_run() {
        return;
    }
    let (net, world) = begin();
    make(&world, "one", level);
    make(&world, "two", level);
    let placeholder = variable(&world, "one", "API_KEY");
    assert!(placeholder.starts_with("cofferdam-placeholder-"), "{placeholder}");

    // The program sends what it has, and the server hears what it has to.
    let key = format!("x-api-key={placeholder}");
    let said = ask(&world, "one", &["GET", "https://api.example.com/x", &key]);
    assert!(said.starts_with("200"), "{said}");
    assert_eq!(heard(&net).as_deref(), Some(VALUE));
    // Also when it sends nothing.
    ask(&world, "one", &["GET", "https://api.example.com/x"]);
    assert_eq!(heard(&net).as_deref(), Some(VALUE));

    // What comes back is told without it.
    let said = ask(&world, "one", &["POST", "https://api.example.com/echo", &key, "body=hello"]);
    assert!(said.starts_with("200") && said.contains("hello") && !said.contains(VALUE), "{said}");
    assert_eq!(heard(&net).as_deref(), Some(VALUE));

    // It goes nowhere else: neither it, nor its placeholder, nor another agent's.
    let before = net.heard().len();
    let of_two = variable(&world, "two", "API_KEY");
    assert_ne!(of_two, placeholder);
    for words in [
        vec!["GET", "http://plain.example.com/x", &key],
        vec!["POST", "http://plain.example.com/x", &format!("body=a {placeholder} b")],
        vec!["GET", &format!("http://plain.example.com/{placeholder}")],
        vec!["GET", &format!("https://api.example.com/x?key={placeholder}")],
        vec!["GET", "https://api.example.com/x", &format!("x-other={placeholder}")],
        vec!["POST", "https://api.example.com/x", &format!("body={placeholder}")],
        vec!["GET", "https://api.example.com/x", &format!("x-api-key={of_two}")],
        vec!["DELETE", "https://api.example.com/x", &key],
    ] {
        let said = ask(&world, "one", &words);
        assert!(said.starts_with("403"), "{words:?}: {said}");
    }
    assert_eq!(net.heard().len(), before, "{:?}", net.heard().last());
    // To a host that is not looked into it is sent as it is, and that is worth nothing: the certificate is the server's own.
    let said = ask(&world, "one", &["GET", "https://other.example.com/x", &key]);
    assert!(said.starts_with("none SSL"), "{said}");
    // To a server that is not who it should be, nothing is said.
    let said = ask(&world, "one", &["GET", "https://false.example.com/x"]);
    assert!(said.starts_with("502"), "{said}");
    assert_eq!(net.heard().len(), before);

    // The agent has its own one, and no trace of the other.
    assert_eq!(variable(&world, "one", "OWN"), OWN);
    let own = world.sh("one", "cat /run/secrets/own.txt; stat -c ' %a' /run/secrets/own.txt").ok().out;
    assert_eq!(own.trim(), format!("{OWN} 400"));
    let traces = "grep -rlaF sk-planted /run /tmp /etc \"$HOME\" /proc/[0-9]*/environ 2>/dev/null; true";
    assert_eq!(world.sh("one", traces).ok().out, "");

    // A new value is in use without a new start.
    world.cli_with(&["secret", "rotate", "api"], ROTATED.as_bytes()).ok();
    let mut said = String::new();
    for _ in 0..200 {
        said = ask(&world, "one", &["GET", "https://api.example.com/x", &key]);
        if heard(&net).as_deref() == Some(ROTATED) {
            break;
        }
    }
    assert_eq!(heard(&net).as_deref(), Some(ROTATED), "{said}");
    // As long as it is bound it stays.
    let gone = world.cli(&["secret", "rm", "api"]);
    assert!(gone.code != 0 && gone.err.contains("one"), "{}", gone.err);

    // Whatever the platform wrote knows neither.
    let shown = [
        world.cli(&["secret", "ls", "-o", "json"]).ok().out,
        world.cli(&["events", "-n", "200", "-o", "json"]).ok().out,
        world.cli(&["show", "one", "-o", "json"]).ok().out,
        world.cli(&["egress", "log", "-o", "json"]).ok().out,
    ]
    .concat();
    let values = [VALUE, ROTATED, OWN];
    assert!(!values.iter().any(|value| shown.contains(value)), "{shown}");
    assert!(shown.contains("\"credentials\": [\n") && shown.contains("secret."), "{shown}");
    for name in ["one", "two"] {
        world.cli(&["rm", "--force", name]).ok();
    }
    world.cli(&["secret", "rm", "api"]).ok();
    // Nothing but what is put there now, so that it is known that it would be found.
    let planted = world.dir().join("planted");
    fs::write(&planted, format!("a {VALUE}")).unwrap();
    assert_eq!(holding(world.dir(), &values), [planted.display().to_string()]);
}

#[test]
fn credentials_stay_outside_of_a_container() {
    credentials_stay_outside("container");
}

#[test]
fn credentials_stay_outside_of_an_os_user() {
    credentials_stay_outside("process");
}
