//! Boundaries that lack one thing each: whoever looks must miss it, and name it.
//!
//! The jail here is one that only tests build (`cargo xtask sabotaged`): the name of what it leaves out is written into a
//! copy of it (`crates/jail/src/sabotage.rs`). A control of any level that is not in the table, or that nobody misses,
//! fails.

use crate::{World, chain};
use model::agent::Level;
use model::evidence::{Control, Evidence, claim, missing, with_probe};
use sandbox::apparmor::Offer;
use sandbox::{Given, LaunchError};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MARK: &[u8] = b"COFFERDAM-SABOTAGE:";
const ROOM: usize = 45;

/// Who notices.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    /// The look before init begins: there is no agent then.
    Inspect,
    /// The attempts of the probe alone: what the kernel says of init looks whole.
    Probe,
}

/// What is left out, which control that is at each level that has it, and who misses it.
const TABLE: [(&str, Control, By); 26] = [
    // A user that the machine has.
    ("os_user", Control::OsUser, By::Inspect),
    ("user_namespace", Control::UserNamespace, By::Inspect),
    ("pid_namespace", Control::PidNamespace, By::Inspect),
    // That of the zygote, shared: there is nothing of the host's in it.
    ("mount_namespace", Control::MountNamespace, By::Inspect),
    ("network_namespace", Control::NetworkNamespace, By::Inspect),
    ("ipc_namespace", Control::IpcNamespace, By::Inspect),
    // That of the zygote, shared: the host's would get another name.
    ("uts_namespace", Control::UtsNamespace, By::Inspect),
    ("cgroup_namespace", Control::CgroupNamespace, By::Inspect),
    ("no_new_privs", Control::NoNewPrivs, By::Inspect),
    ("seccomp", Control::Seccomp, By::Inspect),
    ("capabilities", Control::Capabilities, By::Inspect),
    // A mount of the host in it.
    ("root_filesystem", Control::RootFilesystem, By::Inspect),
    ("read_only_system", Control::ReadOnlySystem, By::Inspect),
    // What is the platform's is in sight.
    ("read_only_system (hidden)", Control::ReadOnlySystem, By::Inspect),
    ("private_tmp", Control::PrivateTmp, By::Inspect),
    ("memory_limit", Control::MemoryLimit, By::Inspect),
    ("cpu_limit", Control::CpuLimit, By::Inspect),
    ("pids_limit", Control::PidsLimit, By::Inspect),
    // A tmpfs in place of the volume.
    ("disk_limit", Control::DiskLimit, By::Inspect),
    ("landlock", Control::Landlock, By::Inspect),
    // The zygote says that there is a domain, and there is none.
    ("landlock (unsaid)", Control::Landlock, By::Probe),
    ("apparmor", Control::AppArmor, By::Inspect),
    ("kernel_interfaces", Control::KernelInterfaces, By::Inspect),
    ("devices", Control::Devices, By::Inspect),
    // A node for the kernel's log.
    ("devices (a node)", Control::Devices, By::Probe),
    ("init_protection", Control::InitProtection, By::Inspect),
];

/// What stands for a directory of the platform's, of those that agents without an image see.
const PLATFORM: &str = "/usr/share/doc";

#[test]
fn every_control_has_a_sabotage() {
    for level in Level::ALL {
        let without = |control: &&Control| !TABLE.iter().any(|(_, sabotaged, _)| sabotaged == *control);
        let without: Vec<&Control> = Control::of(level).iter().filter(without).collect();
        assert!(without.is_empty(), "nothing leaves out, of level {level}: {without:?}");
    }
}

fn sabotaged() -> Option<PathBuf> {
    let target = std::env::current_exe().ok()?.ancestors().nth(3)?.to_owned();
    let built = target.join("sabotage/release/cofferdam-jail");
    [target.join("release/cofferdam-jail-sabotaged"), built].into_iter().find(|path| path.is_file())
}

/// A jail that leaves this out.
fn without(what: &str, dir: &Path) -> PathBuf {
    let mut program =
        fs::read(sabotaged().expect("the jail for sabotage: `cargo xtask sabotaged` builds it")).unwrap();
    let at = program.windows(MARK.len()).position(|window| window == MARK).expect("its mark") + MARK.len();
    let name = format!("{what:ROOM$}");
    program[at..at + ROOM].copy_from_slice(name.as_bytes());
    let path = dir.join("cofferdam-jail");
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_is_left_out_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    if sabotaged().is_none() {
        drop(World::with_jail("what_is_left_out_is_missed", None));
        return;
    }
    let mut unseen = Vec::new();
    for (what, control, by) in TABLE {
        let least_landlock = if by == By::Probe { 6 } else { 1 };
        if control == Control::Landlock && jail::landlock::abi() < least_landlock {
            eprintln!("{what}: this kernel's Landlock has nothing that could be missed");
            continue;
        }
        if control == Control::AppArmor && *sandbox::apparmor::offer() != Offer::Loaded {
            eprintln!("{what}: {:?}", sandbox::apparmor::offer());
            continue;
        }
        let Some(mut world) = World::with_jail(what, Some(without(what, dir.path()))) else { return };
        world.config.hidden = vec![PLATFORM.into()];
        for level in Level::ALL.into_iter().filter(|level| Control::of(*level).contains(&control)) {
            match missed(&world, level, by) {
                Ok(lacking) => {
                    let mut named: BTreeSet<Control> = lacking.iter().map(|found| found.control).collect();
                    eprintln!("{level:?} without {what}: {lacking:?}");
                    if control == Control::NetworkNamespace {
                        // The host's sysfs comes with its network.
                        named.remove(&Control::RootFilesystem);
                    }
                    if control == Control::OsUser {
                        // What protects init is that user's as well.
                        named.remove(&Control::InitProtection);
                    }
                    // Without an image several controls look at the same mounts.
                    if !level.has_image() && control != Control::ReadOnlySystem {
                        named.remove(&Control::ReadOnlySystem);
                    }
                    if named != BTreeSet::from([control]) {
                        unseen.push(format!("{level:?} without {what}: {lacking:?}"));
                    }
                }
                Err(error) if control == Control::DiskLimit && error.contains("mapping the volume") => {
                    eprintln!("{what}: this kernel cannot even make it: {error}");
                }
                Err(error) => unseen.push(format!("{level:?} without {what}: {error}")),
            }
        }
        // What was refused has left nothing, and nothing ever ran in it.
        world.assert_clean();
    }
    assert_eq!(unseen, [""; 0]);
}

/// What is missed of a boundary that is made by this world's jail.
fn missed(world: &World, level: Level, by: By) -> Result<Vec<Evidence>, String> {
    let sandbox = world.sandbox();
    let spec = world.spec_at(level, None);
    sandbox.create_volume(spec.volume, spec.resources.disk).map_err(|error| chain(&error))?;
    let boundary =
        match sandbox.launch(&spec, &Given::default(), crate::lease(), 0, &world.channel(&spec), None) {
            Err(LaunchError::Unproven { lacking, .. }) if by == By::Inspect => return Ok(lacking),
            Err(error) => return Err(chain(&error)),
            Ok(boundary) => boundary,
        };
    let looked = missing(spec.level, &boundary.inspect());
    let tried = boundary.probe(&spec, Duration::from_secs(20)).map_err(|error| chain(&error));
    boundary.kill().map_err(|error| chain(&error))?;
    let evidence = with_probe(boundary.proof().unwrap().evidence.clone(), &tried?, &[]);
    boundary.cleanup().map_err(|error| chain(&error))?;
    if by == By::Inspect || !looked.is_empty() {
        return Err(format!("a look missed {looked:?}, and it is the {by:?}'s to miss something"));
    }
    Ok(missing(spec.level, &evidence))
}

/// The program that is sabotaged is as good as any when nothing is left out.
#[test]
fn a_jail_for_sabotage_that_leaves_nothing_out_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let test = "a_jail_for_sabotage_that_leaves_nothing_out_is_whole";
    let jail = sabotaged().map(|_| without("", dir.path()));
    let Some(world) = World::with_jail(test, jail) else { return };
    let sandbox = world.sandbox();
    for level in Level::ALL {
        let spec = world.spec_at(level, None);
        let boundary = world.launch(&sandbox, &spec);
        assert_eq!(claim(level, &boundary.proof().unwrap().evidence), crate::full(level));
        boundary.kill().unwrap();
        boundary.cleanup().unwrap();
    }
    drop(sandbox);
    world.assert_clean();
}
