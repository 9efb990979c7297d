//! Questions in a terminal, with the real command line at a real one: what is typed at a question is not seen inside, what was meant for
//! the agent decides nothing, and an agent's output stays behind the question.
//!
//! Control and guard are played, so that the tests say when something is asked, written and typed.

mod played;
mod screen;

use played::Played;
use serde_json::json;
use std::time::Duration;

/// How long nothing happens, where nothing may.
const QUIET: Duration = Duration::from_millis(300);

#[test]
fn an_answer_does_not_reach_the_agent_and_output_waits() {
    let played = Played::start();
    let mut terminal = played.terminal(&["exec", "-it", "worker", "sh"]);
    played.writes("inside$ ");
    terminal.shows("inside$ ");
    terminal.types("ls");
    assert_eq!(played.reads(2), "ls");
    played.asks("api.example.com", 60);
    terminal.shows("worker wants to connect to api.example.com:443");
    // Meant for the agent, or for nobody: a decision by it would be an accident.
    terminal.types("always\r");
    played.writes("behind the question");
    terminal.shows("(d)eny");
    std::thread::sleep(QUIET);
    assert!(!terminal.seen().contains("behind the question"), "{}", terminal.seen());
    assert!(played.answers().is_empty(), "nobody answered");
    terminal.types("agent\r");
    terminal.shows("worker may reach api.example.com:443 from now on");
    terminal.shows("behind the question");
    assert_eq!(played.answers(), [("api.example.com".to_owned(), json!("agent"))]);
    terminal.types("x");
    assert_eq!(played.reads(3), "lsx", "what was typed at the question went inside");
    played.ends(7);
    assert_eq!(terminal.ends(), 7);
}

#[test]
fn an_interrupt_denies_and_time_runs_out() {
    let played = Played::start();
    let mut terminal = played.terminal(&["exec", "-it", "worker", "sh"]);
    played.writes("inside$ ");
    terminal.shows("inside$ ");
    played.asks("one.example.com", 60);
    terminal.shows("(d)eny");
    terminal.types("o\x03");
    terminal.shows("worker may not connect to one.example.com:443");
    assert_eq!(played.answers(), [("one.example.com".to_owned(), json!("deny"))]);
    played.asks("two.example.com", 60);
    terminal.shows("two.example.com:443");
    terminal.shows("(d)eny");
    played.settles("two.example.com");
    terminal.shows("it waits no longer");
    // Its process ends while a question is open.
    played.asks("three.example.com", 60);
    terminal.shows("three.example.com:443");
    played.ends(3);
    assert_eq!(terminal.ends(), 3);
    assert_eq!(played.answers().len(), 1);
    assert_eq!(played.reads(0), "");
}

#[test]
fn an_agent_cannot_ask_in_our_name() {
    let played = Played::start();
    let mut terminal = played.terminal(&["exec", "-it", "worker", "sh"]);
    played
        .writes("cofferdam: allow it (o)nce, for this (a)gent, al(w)ays, (d)eny it, or (s)top asking here? ");
    terminal.shows("asking here? ");
    terminal.types("always\r");
    assert_eq!(played.reads(7), "always\r", "what is typed at the agent's own words is the agent's");
    std::thread::sleep(QUIET);
    assert!(played.answers().is_empty(), "and decides nothing");
    // What it left open on the terminal is closed before a true one.
    played.writes("\x1b]0;a title that has no end ");
    terminal.shows("no end ");
    played.asks("api.example.com", 60);
    terminal.shows("\x18\x1b\\");
    // And so is what would keep lines of ours from being seen.
    terminal.shows("\x1b[r");
    terminal.shows("worker wants to connect to api.example.com:443");
    terminal.shows("cofferdam: worker to api.example.com:443: allow it");
    played.ends(0);
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn a_command_without_a_terminal_of_its_own_is_asked_for_too() {
    let played = Played::start();
    let mut terminal = played.terminal(&["exec", "worker", "--", "make"]);
    played.writes("begin\n");
    terminal.shows("begin");
    played.asks("api.example.com", 60);
    terminal.shows("(d)eny");
    terminal.types("what?\n");
    terminal.shows("(d)eny");
    terminal.types("o\n");
    terminal.shows("worker may connect to api.example.com:443, this once");
    assert_eq!(played.answers(), [("api.example.com".to_owned(), json!("once"))]);
    assert_eq!(played.reads(0), "");
    played.asks("more.example.com", 60);
    terminal.shows("(d)eny");
    terminal.types("s\n");
    played.asks("again.example.com", 60);
    played.writes("end\n");
    terminal.shows("end");
    std::thread::sleep(QUIET);
    assert!(!terminal.seen().contains("again.example.com"), "{}", terminal.seen());
    played.ends(0);
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn nobody_is_there_without_a_terminal_or_when_it_is_not_wanted() {
    let played = Played::start();
    let mut terminal = played.terminal(&["exec", "--no-ask", "worker", "--", "make"]);
    played.writes("begin\n");
    terminal.shows("begin");
    played.ends(0);
    assert_eq!(terminal.ends(), 0);
    let ended = played.start_exec(&["exec", "worker", "--", "make"]);
    played.writes("begin\n");
    played.ends(4);
    let ended = ended.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(4), &b"begin\n"[..]));
    assert_eq!(played.watched(), 0, "nobody looks after questions");
}

#[test]
fn looking_after_questions_elsewhere_shows_them_and_decides_nothing() {
    let played = Played::start();
    let mut child = played.start_exec(&["egress", "ask", "-o", "json"]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for host in ["one.example.com", "two.example.com"] {
        played.asks(host, 60);
        let question: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(question["host"], host);
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(played.watched() > 0 && played.answers().is_empty());
    // At a terminal it asks.
    let mut terminal = played.terminal(&["egress", "ask"]);
    for (host, typed, said) in [
        ("one.example.com", "w\n", "every agent that asks may reach"),
        ("two.example.com", "d\n", "may not connect to"),
    ] {
        terminal.shows(&format!("worker wants to connect to {host}:443"));
        terminal.shows("(d)eny");
        terminal.types(typed);
        terminal.shows(said);
    }
    let decided: Vec<_> = played.answers().into_iter().map(|(_, decision)| decision).collect();
    assert_eq!(decided, [json!("always"), json!("deny")]);
}
