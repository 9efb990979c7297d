//! The peers, on the very root filesystem that the agents have.

use crate::session::Session;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A bundle whose root is the mounted base image; unmounted when dropped.
pub struct Peers {
    dir: PathBuf,
    root: PathBuf,
}

fn succeeds(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a command to its end and says how long that took.
pub fn timed(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let took = started.elapsed();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    took
}

impl Peers {
    /// Mounts the base image of the session, and writes runc's configuration.
    pub fn make(session: &Session) -> Self {
        let dir = session.world.dir().join("peers");
        let (root, scratch) = (dir.join("root"), dir.join("scratch"));
        for path in [&root, &scratch] {
            fs::create_dir_all(path).expect("a folder for the peers");
        }
        let images = fs::read_dir(session.world.dir().join("data/images")).expect("images");
        let image = images.flatten().map(|entry| entry.path());
        let image = image.into_iter().find(|path| path.extension().is_some_and(|e| e == "erofs"));
        let image = image.expect("the base image");
        succeeds(Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(image).arg(&root));
        succeeds(Command::new("runc").args(["spec", "--bundle"]).arg(&dir));
        let config = dir.join("config.json");
        let mut spec: Value =
            serde_json::from_slice(&fs::read(&config).expect("config.json")).expect("runc writes JSON");
        spec["root"] = json!({"path": "root", "readonly": true});
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["true"]);
        // A disk of the host to write to, as the agent's home is one.
        let mounts = spec["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/home", "type": "bind", "source": scratch,
            "options": ["bind", "rw"]}));
        fs::write(&config, spec.to_string()).expect("config.json");
        Self { dir, root }
    }

    fn name(&self) -> String {
        self.dir.parent().and_then(Path::file_name).expect("a world's name").to_string_lossy().into_owned()
    }

    /// `runc run` of `true`; `index` keeps containers at the same time apart.
    pub fn runc_run(&self, index: usize) -> Command {
        let mut command = Command::new("runc");
        command.arg("run").arg("--bundle").arg(&self.dir).arg(format!("{}-{index}", self.name()));
        command
    }

    /// `bwrap` of `true`.
    pub fn bwrap(&self) -> Command {
        let mut command = Command::new("bwrap");
        command.arg("--unshare-all").arg("--ro-bind").arg(&self.root).args(["/", "--proc", "/proc"]);
        command.args(["--dev", "/dev", "--tmpfs", "/tmp", "true"]);
        command
    }

    /// `true` as another user, on the machine's own system and without its network.
    pub fn os_user(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "bwrap"]);
        command.args(["--unshare-net", "--ro-bind", "/", "/", "--dev", "/dev", "--tmpfs", "/tmp", "true"]);
        command
    }

    /// A container that lasts, for `runc exec`.
    pub fn container(&self) -> Container<'_> {
        let id = format!("{}-lasting", self.name());
        let bundle = self.dir.join("lasting");
        fs::create_dir_all(&bundle).expect("a bundle");
        let text = fs::read(self.dir.join("config.json")).expect("config.json");
        let mut spec: Value = serde_json::from_slice(&text).expect("JSON");
        spec["process"]["args"] = json!(["sleep", "infinity"]);
        spec["root"]["path"] = json!(self.root);
        fs::write(bundle.join("config.json"), spec.to_string()).expect("config.json");
        let child = Command::new("runc")
            .arg("run")
            .arg("--bundle")
            .arg(&bundle)
            .arg(&id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("runc");
        let container = Container { _peers: self, id, child };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !container.exec(&["true"]).output().is_ok_and(|output| output.status.success()) {
            assert!(Instant::now() < deadline, "runc's container does not come up");
        }
        container
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        succeeds(Command::new("umount").arg(&self.root));
    }
}

/// A runc container that lasts until it is dropped.
pub struct Container<'a> {
    _peers: &'a Peers,
    id: String,
    child: Child,
}

impl Container<'_> {
    /// `runc exec` in it.
    pub fn exec(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("exec").arg(&self.id).args(argv).stderr(Stdio::piped());
        command
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        succeeds(Command::new("runc").args(["kill", &self.id, "KILL"]));
        let _ = self.child.wait();
    }
}
