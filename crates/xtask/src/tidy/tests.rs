//! Every rule on an example that breaks it, and on one that does not.

use super::crates::{self, Crate};
use super::source::{self, Source};
use super::{Fault, ring_in};

fn manifest(folder: &str, depends: &str) -> Crate {
    let text = format!(
        "[package]\nname = \"{folder}\"\n\n[dependencies]\n{depends}\n\n[dev-dependencies]\nsandbox.workspace = true\n"
    );
    crates::parse(folder.to_owned(), &text)
}

#[track_caller]
fn check(faults: Vec<Fault>, expected: &[&str]) {
    let said: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.place, fault.what)).collect();
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "expected {expected:?} in {said:?}");
    }
}

#[track_caller]
fn check_source(name: &str, text: &str, expected: &[&str]) {
    check(source::check(&Source::parse(name, text)), expected);
}

#[test]
fn dependencies_are_followed_all_the_way() {
    let crates = [
        manifest("control", "client.workspace = true\nserde = \"1\""),
        manifest("client", "gate = { path = \"../gate\" }"),
        manifest("gate", "model.workspace = true"),
        manifest("model", ""),
    ];
    check(crates::check(&crates), &["never depends on `gate`: control → client → gate"]);
    check(crates::check(&crates[2..]), &[]);
    check(
        crates::check(&[manifest("gate", "[dependencies.store]\nworkspace = true")]),
        &["never depends on `store`"],
    );
    check(crates::check(&[manifest("channel", "model.workspace = true")]), &["never depends on `model`"]);
    let on_linux = "[target.'cfg(unix)'.dependencies]\njail.workspace = true";
    check(crates::check(&[manifest("gate", on_linux)]), &["never depends on `jail`"]);
}

#[test]
fn only_the_store_talks_to_a_database() {
    check(
        crates::check(&[manifest("control", "sqlx.workspace = true")]),
        &["only `store` depends on `sqlx`"],
    );
    check(crates::check(&[manifest("store", "sqlx.workspace = true")]), &[]);
    let text = "//! x\nfn f() { query(\"select \\\n   x\"); query(\"SELECT a\n  FROM b\"); }\n";
    check_source("crates/control/src/a.rs", text, &["a.rs:3: only the store has SQL"]);
    check_source("crates/store/src/a.rs", text, &[]);
    check_source(
        "crates/control/src/a.rs",
        "//! SELECT a FROM b\n// INSERT INTO x\nconst A: &str = r#\"UPDATE a SET b\"#;\n",
        &["only the store has SQL"],
    );
    check_source("crates/control/src/a.rs", "//! x\nconst A: &str = \"SELECT one of these\";\n", &[]);
}

#[test]
fn folders_are_called_like_their_crates() {
    let other = Crate { folder: "jail-runtime".to_owned(), ..manifest("jail", "") };
    check(crates::check(&[other]), &["its folder `jail-runtime`"]);
}

#[test]
fn unsafe_has_two_homes_and_always_a_reason() {
    let bare = "//! x\nfn f() { unsafe { g() } }\n";
    check_source("crates/node/src/a.rs", bare, &["lives in jail", "without a `// SAFETY:`"]);
    check_source("crates/jail/src/a.rs", bare, &["a.rs:2: `unsafe` without"]);
    let reasoned = "//! x\nfn f() {\n    // SAFETY: g asks for nothing.\n    unsafe { g() }\n}\n";
    check_source("crates/jail/src/a.rs", reasoned, &[]);
    check_source("crates/sandbox/src/host/mount.rs", reasoned, &[]);
    check_source("crates/sandbox/src/host_other.rs", reasoned, &["lives in jail"]);
    // The word in comments, strings and longer words is no code.
    let said = "//! unsafe {\n#![deny(unsafe_code)]\n/* unsafe { /* nested */ } */ fn f<'a>() { g(\"unsafe {\", r#\"\"unsafe {\"#, '\"', b'\\'', 'u') }\n";
    check_source("crates/node/src/a.rs", said, &[]);
    let after = "//! x\nconst A: char = '\\'';\nconst B: &str = \"\\\"\";\nfn f() { unsafe { g() } } // SAFETY: seen\n";
    check_source("crates/node/src/a.rs", after, &["a.rs:4: `unsafe` lives in jail"]);
    // A declaration is no block.
    check_source(
        "crates/jail/src/a.rs",
        "//! x\npub unsafe fn f() {}\n#[unsafe(no_mangle)]\nfn g() {}\n",
        &[],
    );
}

#[test]
fn files_say_what_they_are_and_end_in_time() {
    check_source("crates/node/src/a.rs", "use std::fs;\n", &["begins with `//!`"]);
    check_source("crates/node/src/a.rs", "", &["begins with `//!`"]);
    check_source("crates/node/src/tests.rs", "use super::*;\n", &[]);
    check_source("crates/node/src/tests/plan.rs", "use super::*;\n", &[]);
    check_source("crates/node/src/a.rs", "#![allow(unsafe_code)]\n//! Late, but there.\n", &[]);
    let long = format!("//! x\n{}", "fn f() {}\n".repeat(800));
    check_source("crates/node/src/a.rs", &long, &["a.rs:801: has 801 lines"]);
}

#[test]
fn unfinished_things_are_found() {
    let left = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["/wo", "rk/here"].concat()];
    for word in left {
        check_source("crates/node/src/a.rs", &format!("//! x\n// {word}\n"), &["a.rs:2"]);
    }
    check_source("crates/node/src/a.rs", "//! The network is here.\n", &[]);
}

#[test]
fn ring_stays_out() {
    assert_eq!(ring_in(""), None);
    assert_eq!(ring_in("rustls v0.23.1\n└── ring v1\n"), None);
    assert!(ring_in("ring v0.17.14\n└── rustls v0.23.1\n").is_some());
}
