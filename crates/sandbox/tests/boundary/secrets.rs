//! What agents are given at their start beside their spec: secrets, which nobody else sees and nothing keeps, and whom to trust.

use crate::oci;
use crate::talk::{exec, text};
use crate::{World, image_of, lease};
use channel::User;
use model::agent::Level;
use model::secret::SecretValue;
use model::{AgentId, AgentSpec, Driver};
use sandbox::{Boundary, Given, Sandbox};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// In the agent, no two of these are alike in any encoding.
fn planted() -> String {
    format!("planted-{}", AgentId::new().base32())
}

fn values<const N: usize>(values: [(&str, &str); N]) -> BTreeMap<String, SecretValue> {
    values.map(|(name, value)| (name.to_owned(), SecretValue::new(value.to_owned()))).into()
}

fn launch(world: &World, sandbox: &Sandbox, spec: &AgentSpec, given: &Given) -> Boundary {
    sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
    let launched = sandbox.launch(spec, given, lease(), 0, &world.channel(spec), None);
    launched.unwrap_or_else(|error| panic!("{}", crate::chain(&error)))
}

fn end(boundary: &Boundary) {
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
}

/// All files beneath that hold it.
fn holding(directory: &Path, planted: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    entries
        .flat_map(|entry| match entry.file_type().unwrap() {
            kind if kind.is_dir() => holding(&entry.path(), planted),
            kind if kind.is_file() && holds(&entry.path(), planted) => vec![entry.path()],
            _ => Vec::new(),
        })
        .collect()
}

fn holds(path: &Path, planted: &str) -> bool {
    let (bytes, planted) = (fs::read(path).unwrap_or_default(), planted.as_bytes());
    // Nearly all of a disk is zeroes.
    let pages = bytes.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    pages.map(|(number, _)| number * 4096).any(|start| {
        let end = bytes.len().min(start + 4096 + planted.len());
        bytes[start..end].windows(planted.len()).any(|part| part == planted)
    })
}

/// Processes that show it to whoever may see how they were started, apart from those of the agent.
fn showing(boundary: &Boundary, planted: &str) -> Vec<String> {
    let base = boundary.record().base_uid;
    let is_agents = |path: &Path| {
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        let uid = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
        let pid = path.file_name().and_then(|name| name.to_str());
        uid == Some(base + 1000) && pid != Some(&boundary.record().pid.to_string())
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("environ").exists() && !is_agents(path))
        .flat_map(|path| [path.join("environ"), path.join("cmdline")])
        .filter(|path| holds(path, planted))
        .map(|path| path.display().to_string())
        .collect()
}

fn are_the_agents_alone(world: &World, sandbox: &Sandbox, spec: AgentSpec) {
    let (level, planted) = (spec.level, planted());
    let odd = format!("{planted} \"quoted\" \\ \u{e9}\n\ttwo lines\u{1}");
    let large = format!("{planted}{}", "x".repeat(model::secret::MAX_VALUE - planted.len()));
    let given = Given {
        env: values([("PLANTED", &odd), ("GREETING", "of the secret")]),
        files: values([("key.pem", &odd), ("large", &large)]),
        ..Given::default()
    };
    // Both are there before anything of the agent runs.
    let script =
        "printf %s \"$PLANTED\" | busybox cmp -s - /run/secrets/key.pem && : > ~/same; exec sleep 1000";
    let main = world.spec_at(level, Some(script)).main;
    let spec = AgentSpec { main, env: [("GREETING".to_owned(), "hello".to_owned())].into(), ..spec };
    let boundary = launch(world, sandbox, &spec, &given);
    let run = |script: &str, user| text(&exec(&world.channel(&spec), script, user, None));
    assert_eq!(run("printf %s \"$PLANTED\"", None), odd, "{level}");
    assert_eq!(run("printf %s \"$GREETING\"", None), "of the secret", "the spec's own is not it");
    assert_eq!(run("cat /run/secrets/key.pem", None), odd);
    assert_eq!(run("busybox wc -c < /run/secrets/large", None).trim(), model::secret::MAX_VALUE.to_string());
    crate::until("main has compared", || run("[ -e ~/same ] && echo same", None) == "same\n");

    let id = if level.has_image() { 1000 } else { boundary.record().base_uid + 1000 };
    let stat = run("busybox stat -c '%a %u %g' /run/secrets /run/secrets/key.pem", None);
    assert_eq!(stat, format!("700 {id} {id}\n400 {id} {id}\n"));
    assert_eq!(run("busybox stat -f -c %T /run/secrets/key.pem", None), "tmpfs\n");
    let refused = "(: > /run/secrets/key.pem) 2>/dev/null || echo refused";
    assert_eq!(run(refused, None), "refused\n", "nobody writes to it by accident");
    if level.has_image() {
        let other = run(
            "busybox su -s /bin/sh other -c 'cat /run/secrets/key.pem; busybox ls /run/secrets'",
            Some(User::Root),
        );
        assert!(other.contains("denied") && !other.contains(&planted), "{other}");
    }
    let inits = run("cat /proc/1/environ /proc/1/cmdline /proc/1/mem", None);
    assert!(!inits.contains(&planted), "{inits}");
    // Neither another agent, nor anything of the host's.
    let neighbour_spec = AgentSpec {
        main: None,
        ..AgentSpec { id: AgentId::new(), volume: model::VolumeId::new(), ..spec.clone() }
    };
    let neighbour = launch(world, sandbox, &neighbour_spec, &Given::default());
    let seen = exec(
        &world.channel(&neighbour_spec),
        "echo \"[$PLANTED]\"; cat /run/secrets/* /proc/*/environ /proc/*/root/run/secrets/*",
        None,
        None,
    );
    assert!(text(&seen).starts_with("[]\n") && !text(&seen).contains(&planted), "{}", text(&seen));
    end(&neighbour);
    assert_eq!(showing(&boundary, &planted), [""; 0]);
    let told = format!("{:?} {:?} {:?}", boundary.inspect(), boundary.record(), given);
    assert!(!told.contains(&planted), "{told}");
    assert_eq!(holding(world.dir.path(), &planted), Vec::<PathBuf>::new());
    end(&boundary);
    assert_eq!(holding(world.dir.path(), &planted), Vec::<PathBuf>::new());
    assert!(!boundary.exit_reason().to_string().contains(&planted));
}

/// An image with one more user, so that there is somebody else.
fn add_user(world: &mut World) {
    let root = world.dir.path().join("root");
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
    fs::write(root.join("etc/passwd"), format!("{passwd}other:x:1001:1001::/:/bin/sh\n")).unwrap();
    world.image = image_of(world.dir.path(), &world.config.images);
}

#[test]
fn secrets_are_the_agents_alone() {
    let Some(mut world) = World::new("secrets_are_the_agents_alone") else { return };
    add_user(&mut world);
    let sandbox = world.sandbox();
    for level in Level::ALL {
        are_the_agents_alone(&world, &sandbox, world.spec_at(level, None));
    }
    drop(sandbox);
    world.assert_clean();
}

#[test]
fn secrets_of_an_agent_that_runc_makes_are_its_own() {
    oci::with(Driver::Runc, "secrets_of_an_agent_that_runc_makes_are_its_own", |world, sandbox, driver| {
        let spec = oci::spec(world, driver, None);
        let given = Given {
            files: values([("key", "planted")]),
            env: values([("KEY", "planted")]),
            ..Given::default()
        };
        let boundary = launch(world, sandbox, &spec, &given);
        let script = "echo $KEY; cat /run/secrets/key; busybox stat -c ' %a %u' /run/secrets/key";
        assert_eq!(text(&exec(&world.channel(&spec), script, None, None)), "planted\nplanted 400 1000\n");
        end(&boundary);
    });
}

#[test]
fn secrets_and_trust_are_there_under_another_kernel() {
    oci::with(Driver::Runsc, "secrets_and_trust_are_there_under_another_kernel", |world, sandbox, driver| {
        let spec = oci::spec(world, driver, None);
        let given = Given {
            files: values([("key", "planted")]),
            env: values([("KEY", "planted")]),
            authority: Some(block("QQ==")),
            roots: Some(block("Qg==")),
        };
        let boundary = launch(world, sandbox, &spec, &given);
        let run = |script: &str| text(&exec(&world.channel(&spec), script, None, None));
        let script = "echo $KEY; cat /run/secrets/key; busybox stat -c ' %a %u' /run/secrets/key";
        assert_eq!(run(script), "planted\nplanted 400 1000\n");
        assert_eq!(run("cat $NODE_EXTRA_CA_CERTS"), block("QQ=="));
        // Its image has no certificates at all.
        assert_eq!(run("cat $SSL_CERT_FILE"), format!("{}# cofferdam\n{}", block("Qg=="), block("QQ==")));
        end(&boundary);
    });
}

fn block(body: &str) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// An image that trusts somebody.
fn add_trust(world: &mut World) {
    let root = world.dir.path().join("root");
    for path in ["etc/ssl/certs", "usr/local/share/ca-certificates"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::write(root.join(BUNDLE), format!("# somebody\n{}", block("c29tZWJvZHk="))).unwrap();
    std::os::unix::fs::symlink("certs/ca-certificates.crt", root.join("etc/ssl/cert.pem")).unwrap();
    world.image = image_of(world.dir.path(), &world.config.images);
}

fn trusting(body: &str) -> Given {
    Given { authority: Some(block(body)), roots: Some(block("cm9vdHM=")), ..Given::default() }
}

#[test]
fn an_agent_of_an_image_trusts_its_gate_everywhere() {
    let Some(mut world) = World::new("an_agent_of_an_image_trusts_its_gate_everywhere") else { return };
    add_trust(&mut world);
    let sandbox = world.sandbox();
    let mut spec = world.spec(None);
    spec.keep_scratch = true;
    spec.env = [("CURL_CA_BUNDLE".to_owned(), "/own".to_owned())].into();
    let run = |script: &str, user| text(&exec(&world.channel(&spec), script, user, None));
    let expected = |own: &str| format!("{}# cofferdam\n{}", block("c29tZWJvZHk="), block(own));

    let boundary = launch(&world, &sandbox, &spec, &trusting("Zmlyc3Q="));
    for variable in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE"] {
        assert_eq!(run(&format!("cat ${variable}"), None), expected("Zmlyc3Q="), "{variable}");
    }
    for variable in ["NODE_EXTRA_CA_CERTS", "DENO_CERT"] {
        assert_eq!(run(&format!("cat ${variable}"), None), block("Zmlyc3Q="), "{variable}");
    }
    assert_eq!(run("echo $CURL_CA_BUNDLE", None), "/own\n", "what the agent says itself holds");
    for path in [&format!("/{BUNDLE}"), "/etc/ssl/cert.pem", "/run/cofferdam/ca-bundle.pem"] {
        assert_eq!(run(&format!("cat {path}"), None), expected("Zmlyc3Q="), "{path}");
    }
    assert_eq!(run("cat /usr/local/share/ca-certificates/*", None), block("Zmlyc3Q="));
    assert_eq!(run("busybox stat -c '%a %u' /run/cofferdam/*.pem", None), "644 0\n644 0\n");
    // The link is one still, and nothing is left beside.
    assert_eq!(
        run("busybox readlink /etc/ssl/cert.pem; echo /etc/ssl/certs/*", None),
        format!("certs/ca-certificates.crt\n/{BUNDLE}\n")
    );
    end(&boundary);

    // At the next start it is another, in the place of this one.
    let boundary = launch(&world, &sandbox, &spec, &trusting("c2Vjb25k"));
    assert_eq!(run(&format!("cat /{BUNDLE}"), None), expected("c2Vjb25k"));
    assert_eq!(run("cat /usr/local/share/ca-certificates/*", None), block("c2Vjb25k"));
    // What its own root put there leads nowhere, holds up nothing, and tells nothing.
    for hostile in [
        "busybox ln -s /proc/1/maps",
        "busybox ln -s /proc/kmsg",
        "busybox ln -s /dev/zero",
        "busybox mkfifo",
        "mkdir",
        "touch",
    ] {
        run(&format!("rm -rf /{BUNDLE}; {hostile} /{BUNDLE}"), Some(User::Root));
        let again = {
            end(&boundary_of(&sandbox, &spec));
            launch(&world, &sandbox, &spec, &trusting("dGhpcmQ="))
        };
        assert!(again.is_alive(), "{hostile}: {}", again.exit_reason());
        let bundle = run("cat /run/cofferdam/ca-bundle.pem", None);
        assert_eq!(bundle, format!("{}# cofferdam\n{}", block("cm9vdHM="), block("dGhpcmQ=")), "{hostile}");
    }
    end(&boundary_of(&sandbox, &spec));
    drop(boundary);

    // With nothing to trust nothing is put in place.
    let plain = world.spec(None);
    let boundary = launch(&world, &sandbox, &plain, &Given::default());
    let seen = exec(
        &world.channel(&plain),
        "echo [$SSL_CERT_FILE]; busybox ls /run/cofferdam /run/secrets; cat /etc/ssl/cert.pem",
        None,
        None,
    );
    let seen = text(&seen);
    assert!(seen.starts_with("[]\n") && seen.contains("# somebody") && !seen.contains(".pem\n"), "{seen}");
    end(&boundary);
    drop(sandbox);
    world.assert_clean();
}

fn boundary_of(sandbox: &Sandbox, spec: &AgentSpec) -> Boundary {
    sandbox.adopt(&sandbox.find(spec.id).unwrap()).unwrap().unwrap()
}

/// The machine's system is read-only: programs are told by variables.
#[test]
fn an_agent_without_an_image_trusts_its_gate_by_variables() {
    let Some(world) = World::new("an_agent_without_an_image_trusts_its_gate_by_variables") else { return };
    let sandbox = world.sandbox();
    let spec = world.spec_at(Level::Process, None);
    let boundary = launch(&world, &sandbox, &spec, &trusting("Zmlyc3Q="));
    let run = |script: &str| text(&exec(&world.channel(&spec), script, None, None));
    assert_eq!(run("cat $NODE_EXTRA_CA_CERTS"), block("Zmlyc3Q="));
    assert!(run("tail -n 4 $SSL_CERT_FILE").ends_with(&format!("# cofferdam\n{}", block("Zmlyc3Q="))));
    let machines = fs::read_to_string(format!("/{BUNDLE}")).unwrap_or_else(|_| block("cm9vdHM="));
    let count = |text: &str| text.matches("BEGIN CERTIFICATE").count();
    assert_eq!(run("grep -c 'BEGIN CERTIFICATE' $SSL_CERT_FILE").trim(), (count(&machines) + 1).to_string());
    assert_eq!(run(&format!("grep -c cofferdam /{BUNDLE}")).trim(), "0");
    end(&boundary);
    drop(sandbox);
    world.assert_clean();
}
