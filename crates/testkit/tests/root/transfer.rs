//! Transfers of real agents between accounts of one person: the old gate, the old tokens and the old account are out of it at once.

use std::time::{Duration, Instant};
use testkit::World;

const PASSWORD: &str = "seven wet otters";

/// Somebody who is logged in here, in a context of their own.
fn person(world: &World, address: &str) {
    let made = world.cli(&["user", "create", address, "-o", "json"]).json();
    let token = made["token"].as_str().expect("a token").to_owned();
    let url = format!("http://{}", world.control_address());
    world.cli_with(&["user", "redeem", &url], format!("{token}\n{PASSWORD}\n").as_bytes()).ok();
    let login = ["login", &url, "--email", address, "--name", "ada"];
    world.cli_with(&login, format!("{PASSWORD}\n").as_bytes()).ok();
}

fn as_ada<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["--context", "ada"], args].concat()
}

#[test]
fn an_agent_goes_and_what_was_there_for_it_ends() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    person(&world, "ada@example.com");
    let ada = |args: &[&str]| world.cli(&as_ada(args));
    ada(&["account", "create", "acme"]).ok();
    ada(&["account", "use", "acme"]).ok();
    let acme = ada(&["whoami", "-o", "json"]).json()["account"].as_str().expect("an account").to_owned();
    ada(&["account", "use", "--own"]).ok();
    let own = ada(&["whoami", "-o", "json"]).json();
    let (own, own_name) =
        (own["account"].as_str().unwrap().to_owned(), own["account_name"].as_str().unwrap().to_owned());
    for account in [&acme, &own] {
        world.cli(&["--context", "local", "image", "grant", "debian", account]).ok();
    }
    ada(&["account", "use", "acme"]).ok();
    for level in ["process", "container"] {
        let mut create = vec!["create", "--name", level, "--level", level];
        if level == "container" {
            create.extend(["--image", "debian"]);
        }
        create.extend(["--", "sh", "-c", "echo begun >> ~/log; sleep 600"]);
        ada(&create).ok();
        ada(&["exec", level, "--", "sh", "-c", "echo planted > ~/mark"]).ok();
        let before = ada(&["show", level, "-o", "json"]).json();
        let id = before["id"].as_str().expect("an id").to_owned();
        // A token of before, at the gate that it is for.
        let (token, url) = workspace(&world, &id);
        assert_eq!(ask(&url, &id, &token), 200, "the token is good");
        ada(&["agent", "transfer", level, "--to", &own_name]).ok();
        assert_ne!(ask(&url, &id, &token), 200, "a token of before");
        assert_eq!(ada(&["show", level]).code, 3, "it is not here any more");
        ada(&["account", "use", "--own"]).ok();
        let begun = Instant::now();
        while ada(&["show", level, "-o", "json"]).json()["state"] != "running" {
            assert!(begun.elapsed() < testkit::patience(60), "{}", ada(&["show", level]).out);
            std::thread::sleep(Duration::from_millis(100));
        }
        // Its disk came along, its main process began once more, and the gate before knows nothing of it.
        assert_eq!(
            ada(&["exec", level, "--", "sh", "-c", "cat ~/mark; wc -l < ~/log"]).ok().out,
            "planted\n2\n"
        );
        assert_ne!(ask(&url, &id, &token), 200, "a token of before, at a gate that is still there");
        let after = ada(&["show", level, "-o", "json"]).json();
        assert_eq!(
            (&after["id"], &after["volume"], &after["image_digest"]),
            (&before["id"], &before["volume"], &before["image_digest"])
        );
        assert_ne!(after["account"], before["account"]);
        // A node that starts again takes it for whose it is.
        let node = world.pid_of("node").expect("node runs");
        let node = rustix::process::Pid::from_raw(node).expect("a pid");
        rustix::process::kill_process(node, rustix::process::Signal::KILL).expect("a signal");
        let begun = Instant::now();
        while ada(&["exec", level, "--", "cat", "mark"]).out != "planted\n" {
            assert!(begun.elapsed() < testkit::patience(60), "{}", ada(&["show", level]).out);
            std::thread::sleep(Duration::from_millis(200));
        }
        ada(&["account", "use", "acme"]).ok();
    }
}

/// A workspace token of the account that has the agent, and where it is good.
fn workspace(world: &World, agent: &str) -> (String, String) {
    let key = world
        .cli(&as_ada(&["key", "create", &format!("probe-{}", &agent[agent.len() - 6..]), "-o", "json"]))
        .json();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let url = format!("http://{}", world.control_address());
    let secret = key["secret"].as_str().expect("a key").to_owned();
    let control = client::Control::new(&url, Some(secret)).expect("a client");
    let scopes = [model::token::Scope::Exec, model::token::Scope::Logs];
    let token = runtime.block_on(control.workspace_token(agent, &scopes)).expect("a token");
    (token.token, token.url)
}

/// The status that the workspace API answers with; 0 where nothing answers.
fn ask(url: &str, agent: &str, token: &str) -> u16 {
    use std::io::{Read, Write};
    let address = url.trim_start_matches("http://");
    let Ok(mut socket) = std::net::TcpStream::connect(address) else { return 0 };
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let request = format!(
        "GET /v1/agents/{agent}/logs HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    let mut answer = String::new();
    let mut first = [0; 64];
    let sent = socket.write_all(request.as_bytes()).and_then(|()| socket.read(&mut first));
    answer.push_str(&String::from_utf8_lossy(&first[..sent.unwrap_or(0)]));
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
