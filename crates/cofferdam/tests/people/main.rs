//! People at their command lines, with a real control: how they come in, whom they let in, and what they are asked.

mod authority;
mod installation;
#[path = "../terminal/screen.rs"]
mod screen;
mod totp;

use installation::{Desk, Installation};
use std::os::unix::fs::PermissionsExt;
use totp::code;

const ADA: &str = "ada@example.com";
const BOB: &str = "bob@example.com";
const PASSWORD: &str = "a planted pass phrase";
const OTHER: &str = "another planted phrase";

fn accounts(desk: &Desk) -> Vec<String> {
    let accounts = desk.run(&["account", "ls", "-q", "-o", "json"]).json();
    accounts.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_person_logs_in_with_a_password_and_a_second_factor() {
    let installation = Installation::start();
    let url = &installation.url;
    let operator = installation.operator();
    let ada = installation.person(&operator, ADA, PASSWORD);
    let mode = std::fs::metadata(ada.kept()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let who = ada.run(&["whoami"]).ok();
    assert!(who.out.contains(ADA) && who.out.contains("owner") && !who.out.contains("cofs_"), "{who:?}");
    let login = |input: &str| ada.run_with(&["login", url, "--email", ADA], input);
    login(OTHER).refused(4, "try again");
    login("").refused(2, "There is no password.");

    let made = ada.run(&["user", "totp", "enrol", "-o", "json"]).json();
    let secret = made["secret"].as_str().unwrap();
    ada.run_with(&["user", "totp", "confirm"], "000 00").refused(2, "code");
    ada.run_with(&["user", "totp", "confirm"], &code(secret, 0)).ok();

    let before = ada.session();
    login(PASSWORD).refused(2, "There is no code.");
    login(&format!("{PASSWORD}\n12345\n")).refused(4, "try again");
    assert_eq!(ada.session(), before, "what does not succeed changes nothing");
    let ran = login(&format!("{PASSWORD}\n{}\n", code(secret, 1))).ok();
    assert!(ran.out.contains(ADA) && !ran.out.contains("cofs_"), "{ran:?}");
    assert_ne!(ada.session(), before);
    // The session that was replaced is over, and one is left: that of this machine.
    let sessions = ada.run(&["user", "sessions", "ls", "-o", "json"]).json();
    assert_eq!(sessions.as_array().map(Vec::len), Some(1), "{sessions}");
    login(&format!("{PASSWORD}\n{}\n", code(secret, 1))).refused(4, "try again");

    ada.run(&["logout"]).ok();
    assert!(!ada.kept().exists());
    ada.run(&["ls"]).refused(4, "No server is known here.");
}

#[test]
fn passwords_and_sessions_are_their_persons() {
    let installation = Installation::start();
    let url = &installation.url;
    let operator = installation.operator();
    let ada = installation.person(&operator, ADA, PASSWORD);
    let laptop = installation.desk("laptop");
    let login = |desk: &Desk, password| desk.run_with(&["login", url, "--email", ADA], password);
    login(&laptop, PASSWORD).ok();
    let sessions = ada.run(&["user", "sessions", "ls", "-o", "json"]).json();
    assert_eq!(sessions.as_array().map(Vec::len), Some(2), "{sessions}");
    ada.run(&["user", "sessions", "end", "--others"]).ok();
    laptop.run(&["ls"]).refused(4, "`cofferdam login`");
    ada.run(&["ls"]).ok();
    // Without a URL and an address, it is logged in again where one was.
    laptop.run_with(&["login"], PASSWORD).ok();

    ada.run_with(&["user", "password"], &format!("{OTHER}\n{OTHER}\n")).refused(2, "not the password");
    ada.run_with(&["user", "password"], &format!("{PASSWORD}\npassword\n")).refused(2, "password");
    ada.run_with(&["user", "password"], &format!("{PASSWORD}\n{OTHER}\n")).ok();
    laptop.run(&["ls"]).refused(4, "`cofferdam login`");
    ada.run(&["ls"]).ok();
    login(&laptop, PASSWORD).refused(4, "try again");
    login(&laptop, OTHER).ok();

    // At the machine the operator can set another password, from elsewhere not, and nobody else anywhere.
    laptop.run(&["user", "reset", ADA]).refused(4, "operator");
    let elsewhere = installation.desk("elsewhere");
    elsewhere.run_with(&["login", url], &installation.key).ok();
    elsewhere.run(&["user", "reset", ADA]).refused(4, "at the machine");
    let made = operator.run(&["user", "reset", ADA, "-o", "json"]).json();
    let redeem = format!("{}\n{PASSWORD}\n", made["token"].as_str().unwrap());
    laptop.run_with(&["user", "redeem", url], &redeem).ok();
    laptop.run(&["ls"]).refused(4, "`cofferdam login`");
    ada.run(&["ls"]).refused(4, "`cofferdam login`");
    laptop.run_with(&["user", "redeem", url], &redeem).refused(4, "ask for another one");
    login(&laptop, PASSWORD).ok();
}

#[test]
fn who_is_invited_belongs_and_who_is_removed_is_out_at_once() {
    let trusting = "[people]\ninvited = \"anyone\"";
    let installation = Installation::start_with(tempfile::tempdir().unwrap(), trusting);
    let url = &installation.url;
    let operator = installation.operator();
    let ada = installation.person(&operator, ADA, PASSWORD);
    ada.run(&["account", "create", "research"]).ok();
    ada.run(&["account", "use", "nowhere"]).refused(3, "account ls");
    ada.run(&["account", "use", "research"]).ok();
    assert_eq!(ada.run(&["account", "show", "-o", "json"]).json()["name"], "research");

    // What its agents may have together, the operator says and nobody else.
    let id = ada.run(&["whoami", "-o", "json"]).json()["account"].as_str().unwrap().to_owned();
    let quota = ["account", "quota", &id, "--agents", "0"];
    ada.run(&quota).refused(4, "operator");
    operator.run(&quota).ok();
    assert_eq!(ada.run(&["account", "quota", "-o", "json"]).json()["limits"]["agents"], 0);

    // Somebody new. One that was taken back, and one that was taken, are good for nothing.
    let invite = |email: &str| {
        let made = ada.run(&["invite", "create", email, "-o", "json"]).json();
        (made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned())
    };
    let bob = installation.desk("bob");
    let accept = |token: &str| bob.run_with(&["invite", "accept", url], &format!("{token}\n{OTHER}\n"));
    let (id, revoked) = invite("carol@example.com");
    ada.run(&["invite", "revoke", &id]).ok();
    accept(&revoked).refused(4, "ask for another one");
    let (_, token) = invite(BOB);
    assert!(ada.run(&["invite", "ls"]).ok().out.contains(BOB));
    bob.run_with(&["invite", "accept", url], &format!("{token}\nbob\n")).refused(2, "password");
    let ran = accept(&token).ok();
    assert!(ran.out.contains("research") && !ran.out.contains(&token), "{ran:?}");
    accept(&token).refused(4, "ask for another one");
    bob.run_with(&["login", url, "--email", BOB], OTHER).ok();
    assert_eq!(accounts(&bob).len(), 2);
    bob.run(&["account", "use", "research"]).ok();
    assert_eq!(bob.run(&["whoami", "-o", "json"]).json()["role"], "member");
    bob.run(&["member", "rm", ADA, "--yes"]).refused(4, "admins");

    // With a key of his own, on another machine.
    let made = bob.run(&["key", "create", "ci", "--scope", "read", "--expires", "1d", "-o", "json"]).json();
    let ci = installation.desk("ci");
    ci.run_with(&["login", url], made["secret"].as_str().unwrap()).ok();
    ci.run(&["ls"]).ok();
    ci.run(&["image", "rm", "debian"]).refused(4, "scope");
    ci.run(&["account", "use", "research"]).refused(4, "a key is for one account");
    ada.run(&["member", "role", BOB, "admin"]).ok();
    assert_eq!(bob.run(&["whoami", "-o", "json"]).json()["role"], "admin");

    ada.run(&["member", "rm", BOB]).refused(2, "--yes");
    ada.run(&["member", "rm", BOB, "--yes"]).ok();
    bob.run(&["ls"]).refused(3, "account use");
    ci.run(&["ls"]).refused(4, "cofferdam login");
    assert_eq!(accounts(&bob).len(), 1, "his own is his");
    bob.run(&["account", "use", "--own"]).ok();
    bob.run(&["ls"]).ok();

    // Back in, as somebody who is known, until he leaves.
    let (_, token) = invite(BOB);
    accept(&token).refused(4, "log in");
    bob.run_with(&["invite", "accept"], &token).ok();
    bob.run(&["account", "use", "research"]).ok();
    bob.run(&["account", "leave", "--yes"]).ok();
    assert_eq!(accounts(&bob).len(), 1);
    bob.run(&["ls"]).ok();
}

#[test]
fn a_proof_is_asked_for_at_a_terminal_and_nowhere_else() {
    let installation = Installation::start();
    let operator = installation.operator();
    let ada = installation.person(&operator, ADA, PASSWORD);
    let create = ["key", "create", "tool"];
    let made = || ada.run(&["key", "ls", "-o", "json"]).json().as_array().unwrap().len();
    installation.forget_proofs(&ada);
    let ran = ada.run_with(&create, &format!("{PASSWORD}\n"));
    ran.refused(4, "PROOF_REQUIRED");
    assert!(ran.err.contains("at a terminal"), "{ran:?}");
    // What asks for none goes on.
    assert_eq!(made(), 0);

    for (typed, said) in [("\r", "PROOF_REQUIRED"), ("not the password\r", "not the password")] {
        let mut terminal = ada.terminal(&create);
        terminal.shows("Password, or a code of the second factor: ");
        terminal.types(typed);
        terminal.shows(said);
        assert_ne!(terminal.ends(), 0);
        assert_eq!(made(), 0);
    }
    let mut terminal = ada.terminal(&create);
    terminal.shows("Password, or a code of the second factor: ");
    terminal.types(&format!("{PASSWORD}\r"));
    terminal.shows("The key is shown this once.");
    assert_eq!(terminal.ends(), 0);
    assert!(!terminal.seen().contains(PASSWORD), "{}", terminal.seen());
    assert_eq!(made(), 1);
    // It is fresh now, for a while.
    ada.run(&["key", "create", "another"]).ok();

    // A code is one as well.
    let mut terminal = ada.terminal(&["user", "totp", "enrol"]);
    terminal.shows("The code that it shows: ");
    let seen = terminal.seen();
    let secret = seen.split_whitespace().skip_while(|word| *word != "secret").nth(1).unwrap().to_owned();
    terminal.types(&format!("{}\r", code(&secret, 0)));
    terminal.shows("Every login asks for a code");
    assert_eq!(terminal.ends(), 0);
    installation.forget_proofs(&ada);
    let mut terminal = ada.terminal(&["user", "totp", "remove", "--yes"]);
    terminal.shows("Password, or a code of the second factor: ");
    terminal.types(&format!("{}\r", code(&secret, 1)));
    terminal.shows("No login asks for a code any more.");
    assert_eq!(terminal.ends(), 0);
}

/// Every process of this machine that can be looked at: its arguments and its environment.
fn processes() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let own = std::process::id().to_string();
    let others = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name != own));
    others
        .filter_map(|entry| {
            let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            Some((entry.path().display().to_string(), [arguments, environment].concat()))
        })
        .collect()
}

#[test]
fn what_is_typed_is_in_no_argument_environment_file_or_log() {
    let installation = Installation::start();
    let operator = installation.operator();
    let ada = installation.person(&operator, ADA, PASSWORD);
    let made = ada.run(&["user", "totp", "enrol", "-o", "json"]).json();
    let secret = made["secret"].as_str().unwrap();
    ada.run_with(&["user", "totp", "confirm"], &code(secret, 0)).ok();
    ada.run(&["account", "create", "research"]).ok();
    ada.run(&["account", "use", "research"]).ok();
    let invitation = ada.run(&["invite", "create", BOB, "-o", "json"]).json();
    let key = ada.run(&["key", "create", "tool", "-o", "json"]).json();

    let mut terminal = ada.terminal(&["login", &installation.url, "--email", ADA]);
    terminal.shows("Password of");
    terminal.types(&format!("{PASSWORD}\r"));
    terminal.shows("Code of the second factor: ");
    let holds = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|part| part == word.as_bytes());
    let processes = processes();
    assert!(processes.iter().any(|(_, words)| holds(words, ADA)), "its arguments are seen");
    for (process, words) in processes {
        assert!(!holds(&words, PASSWORD), "{process}");
    }
    terminal.types(&format!("{}\r", code(secret, 1)));
    terminal.shows("Logged in to");
    assert_eq!(terminal.ends(), 0);
    assert!(!terminal.seen().contains(PASSWORD) && !terminal.seen().contains("cofs_"), "{}", terminal.seen());
    // Nobody can put it there by mistake, either.
    ada.run(&["login", &installation.url, "--email", ADA, "--password", PASSWORD]).refused(2, "--password");

    let kept = std::fs::read_to_string(ada.kept()).unwrap();
    assert!(!kept.contains(PASSWORD) && !kept.contains(secret));
    let log = installation.log();
    assert!(log.contains("/v1/session") || log.contains("control is ready"), "{log}");
    let planted = [
        PASSWORD,
        secret,
        invitation["token"].as_str().unwrap(),
        key["secret"].as_str().unwrap(),
        &ada.session(),
        &installation.key,
    ];
    for word in planted {
        assert!(!log.contains(word), "{word} is in control's log");
    }
}

#[test]
fn shells_complete_the_commands() {
    let directory = tempfile::tempdir().unwrap();
    let desk = Desk { home: directory.path().to_owned() };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = desk.run(&["completions", shell]).ok().out;
        for word in ["logout", "invite", "member", "totp", "scope"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
}
