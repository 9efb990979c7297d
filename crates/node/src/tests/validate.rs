use super::spec;
use crate::validate::{check, driver};
use crate::{Config, Limits};
use model::agent::{Command, Level, RunAs};
use model::{AgentSpec, ByteSize, Driver};

fn refused(change: impl FnOnce(&mut AgentSpec), word: &str) {
    let mut spec = spec();
    change(&mut spec);
    let detail = check(
        &spec,
        &Config { limits: Limits { memory: ByteSize(2 << 30), ..Limits::default() }, ..Config::default() },
    )
    .unwrap_err();
    assert!(detail.contains(word), "{detail}");
}

fn main(argv: &[&str]) -> Option<Command> {
    let argv = argv.iter().map(|&argument| argument.to_owned()).collect();
    Some(Command { argv, env: Default::default(), cwd: None, user: None })
}

#[test]
fn what_a_node_takes() {
    assert_eq!(check(&spec(), &Config::default()), Ok(()));
}

#[test]
fn what_a_node_refuses() {
    refused(|spec| spec.image_digest = Some("../../etc/shadow".into()), "digest");
    refused(|spec| spec.image_digest = Some("0A".repeat(32)), "digest");
    refused(|spec| spec.image_digest = None, "needs an image");
    refused(|spec| spec.resources.memory = ByteSize(4 << 30), "limits.memory");
    refused(|spec| spec.resources.cpus = f64::NAN, "resources.cpus");
    refused(|spec| spec.main = main(&[]), "program");
    refused(|spec| spec.main = main(&["sh", "a\0b"]), "NUL");
    refused(|spec| spec.main = main(&["sh", &"x".repeat(200 << 10)]), "more than");
    refused(|spec| spec.main = main(&["x"; 5000]), "more than");
    refused(|spec| spec.main = main(&["x".repeat(100 << 10).as_str(); 12]), "together");
    refused(
        |spec| {
            spec.main = main(&["sh"]).map(|command| Command { cwd: Some("relative".into()), ..command });
        },
        "absolute",
    );
    refused(|spec| drop(spec.env.insert("A=B".into(), String::new())), "'='");
}

/// Below a container there is no image, and nobody is root.
#[test]
fn what_levels_without_an_image_refuse() {
    for level in [Level::Workspace, Level::Process] {
        let bare = AgentSpec { level, image: None, image_digest: None, ..spec() };
        assert_eq!(check(&bare, &Config::default()), Ok(()));
        let refused = |change: &dyn Fn(&mut AgentSpec), word: &str| {
            let mut spec = bare.clone();
            change(&mut spec);
            let detail = check(&spec, &Config::default()).unwrap_err();
            assert!(detail.contains(word), "{detail}");
        };
        refused(&|bare| bare.image_digest = spec().image_digest, "no image");
        refused(&|bare| bare.image = spec().image, "no image");
        refused(&|bare| bare.image_config.cwd = Some("/".into()), "no image");
        refused(&|bare| bare.keep_scratch = true, "scratch");
        refused(&|bare| bare.run_as = RunAs::Root, "root");
        let as_root = Command { user: Some(RunAs::Root), ..main(&["sh"]).unwrap() };
        refused(&|bare| bare.main = Some(as_root.clone()), "root");
    }
}

#[test]
fn who_makes_an_agent_that_does_not_say() {
    let everywhere = Config::default();
    let without = Config { drivers: vec![Driver::Builtin], ..Config::default() };
    let runtime = Config {
        driver: Some(Driver::Runc),
        drivers: vec![Driver::Builtin, Driver::Runc, Driver::Systemd],
        ..Config::default()
    };
    let ours = Config { driver: Some(Driver::Builtin), ..Config::default() };
    let made = |level, config: &Config| {
        let (image, image_digest) = match level {
            Level::Container => (spec().image, spec().image_digest),
            _ => (None, None),
        };
        let spec = AgentSpec { level, image, image_digest, ..spec() };
        assert_eq!(check(&spec, config), Ok(()));
        driver(&spec, config)
    };
    for (config, process, container) in [
        (&everywhere, Driver::Systemd, Driver::Builtin),
        (&without, Driver::Builtin, Driver::Builtin),
        (&runtime, Driver::Systemd, Driver::Runc),
        (&ours, Driver::Builtin, Driver::Builtin),
    ] {
        assert_eq!(made(Level::Workspace, config), Driver::Builtin);
        assert_eq!(made(Level::Process, config), process);
        assert_eq!(made(Level::Container, config), container);
    }
    let asked = |level, driver| {
        check(&AgentSpec { level, driver: Some(driver), image: None, image_digest: None, ..spec() }, &without)
            .unwrap_err()
    };
    assert!(asked(Level::Process, Driver::Systemd).contains("where systemd runs the machine"));
    assert!(asked(Level::Process, Driver::Runc).contains("makes no agent of level process"));
    assert!(asked(Level::Workspace, Driver::Systemd).contains("makes no agent of level workspace"));
}
