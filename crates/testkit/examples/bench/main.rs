//! What Cofferdam costs beside its peers, measured in turn in one run: `cargo xtask bench`.
//!
//! It starts an installation of its own, drives it through the public API as a program would (one process, connections
//! kept), and runs the peers from the same root filesystem. Every figure is a median unless it says otherwise. Nothing
//! here decides a test.

mod api;
mod clones;
mod crowd;
mod decide;
mod egress;
mod lone;
mod peers;
mod policies;
mod profile;
mod rows;
mod session;
mod streams;
mod weight;

use peers::Peers;
use rows::Rows;
use session::{Blanks, Session};

const HELP: &str = "bench [SECTION...] [--rounds N]: sections are decide, egress, terminated, create, levels, exec, streams, crowd, weight, clone, api; all unless named";

fn main() {
    let mut rounds = 40;
    let mut sections = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--rounds" => {
                rounds =
                    arguments.next().and_then(|text| text.parse().ok()).expect("--rounds takes a number");
            }
            "-h" | "--help" => return println!("{HELP}"),
            section => sections.push(section.to_owned()),
        }
    }
    if sections == [profile::SECTION] {
        return profile::answer();
    }
    let wants = |section: &str| sections.is_empty() || sections.iter().any(|wanted| wanted == section);
    let mut rows = Rows::default();
    if wants("decide") {
        decide::measure(rounds, &mut rows);
        if sections == ["decide"] {
            // Which needs no installation.
            rows.print();
            return rows.write();
        }
    }
    if wants("egress") {
        egress::measure(&mut rows);
        if sections == ["egress"] {
            rows.print();
            return rows.write();
        }
    }
    if wants("terminated") {
        egress::terminated::measure(rounds, &mut rows);
        if sections == ["terminated"] {
            rows.print();
            return rows.write();
        }
    }
    if wants("clone") {
        clones::measure(&mut rows);
        if sections == ["clone"] {
            rows.print();
            return rows.write();
        }
    }
    for blanks in [Blanks::None, Blanks::Bare] {
        if !wants("create") && !wants("weight") {
            break;
        }
        let session = Session::start(blanks);
        if wants("create") {
            let peers = Peers::make(&session);
            lone::creates(&session, &peers, rounds, &mut rows);
        }
        if wants("weight") {
            weight::durability(&session, &mut rows);
        }
    }
    let session = Session::start(Blanks::Ready);
    let peers = Peers::make(&session);
    if wants("weight") {
        weight::platform(&session, &mut rows);
        weight::proof(&session, rounds, &mut rows);
        weight::durability(&session, &mut rows);
    }
    if wants("create") {
        lone::creates(&session, &peers, rounds, &mut rows);
    }
    if wants("exec") {
        lone::execs(&session, &peers, rounds, &mut rows);
    }
    if wants("streams") {
        streams::measure(&session, &peers, &mut rows);
    }
    if wants("crowd") {
        crowd::at_once(&session, &peers, &mut rows);
        crowd::idle_thousand(&session, &mut rows);
    }
    drop(peers);
    drop(session);
    if wants("levels") {
        lone::levels(rounds, &mut rows);
    }
    if wants("api") {
        api::measure(&mut rows);
    }
    if wants("create") {
        profile::ask(&mut rows);
    }
    rows.print();
    rows.write();
}
