//! A real registry for images: Debian's `docker-registry`, on a port of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs until it is dropped.
pub struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    /// Starts one that keeps its content in a folder. Anybody may push to it, without TLS.
    #[track_caller]
    pub fn start(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a folder for the registry");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it has an address").port();
        drop(listener);
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.display()
        );
        fs::write(&config, text).expect("its configuration");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("docker-registry starts; `cargo xtask setup` installs it");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("listening on")), "docker-registry ended");
        // Somebody has to read on, or it stops at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port }
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes `LAYOUT:TAG`, by skopeo.
    #[track_caller]
    pub fn push(&self, from: &str, to: &str) {
        let output = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
            .arg(format!("oci:{from}"))
            .arg(format!("docker://{}/{to}", self.host()))
            .output()
            .expect("skopeo starts; `cargo xtask setup` installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
