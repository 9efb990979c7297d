//! The peers, as Debian has them, each with the least that it takes for this.

use super::load::Way;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One way to the server: ours or a peer's.
pub struct Proxy {
    /// In the table.
    pub name: &'static str,
    /// Its processes.
    pub pids: Vec<i32>,
    /// How clients use it.
    pub way: Way,
    /// Where its clients are, if that is not here.
    pub inside: Option<File>,
    /// Ended with this.
    pub child: Option<Child>,
}

impl Proxy {
    /// Processor time that its processes have used, in seconds; also that of threads which ended.
    pub fn processor(&self) -> f64 {
        let used = |pid: &i32| -> f64 {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            // utime and stime are the 14th and 15th fields of proc_pid_stat(5), in hundredths of a second.
            let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
            (ticks(11) + ticks(12)) / 100.0
        };
        self.pids.iter().map(used).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Private memory of a process, in bytes.
pub fn memory(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    number.expect("its memory") * 1024.0
}

/// Waits until somebody listens there.
pub fn until_it_listens(name: &str, at: SocketAddr) {
    let begun = Instant::now();
    while TcpStream::connect(at).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{name} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts those that are installed.
pub fn start(dir: &Path, server: SocketAddr) -> Vec<Proxy> {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let haproxy = format!(
        "global\n  nbthread 2\n  maxconn 4000\ndefaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend in\n  bind 127.0.0.1:3128\n  tcp-request inspect-delay 5s\n  tcp-request content accept if {{ req.ssl_hello_type 1 }}\n  \
         use_backend out if {{ req.ssl_sni -i {} }}\nbackend out\n  server there {server}\n",
        super::NAME
    );
    let squid = format!(
        "http_port 127.0.0.1:3129\nacl there dst {}\nhttp_access allow there\nhttp_access deny all\ncache deny all\naccess_log none\n\
         cache_log /dev/null\npid_filename none\ncache_store_log none\nshutdown_lifetime 0 seconds\nworkers 1\nmax_filedescriptors 8192\n\
         pinger_enable off\nnetdb_filename none\ncoredump_dir none\nvisible_hostname bench\n",
        server.ip()
    );
    let tinyproxy = "Port 3130\nListen 127.0.0.1\nAllow 127.0.0.1\nMaxClients 2000\nTimeout 60\nConnectPort 443\nLogLevel Critical\nUser nobody\n";
    let peers = [
        ("haproxy", haproxy.as_str(), vec!["-db", "-f"], Way::Address(at(3128))),
        ("squid", squid.as_str(), vec!["-N", "-f"], Way::Connect(at(3129), server)),
        ("tinyproxy", tinyproxy, vec!["-d", "-c"], Way::Connect(at(3130), server)),
    ];
    let start = |(name, config, options, way): (&'static str, &str, Vec<&str>, Way)| {
        let path = dir.join(format!("{name}.conf"));
        fs::write(&path, config).expect("a configuration");
        let mut command = Command::new(name);
        command.args(options).arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| eprintln!("    without {name}: {error}")).ok()?;
        let listens = match &way {
            Way::Address(address) | Way::Connect(address, _) => *address,
            Way::Name(..) => unreachable!("peers have addresses"),
        };
        until_it_listens(name, listens);
        let pid = i32::try_from(child.id()).expect("a pid");
        Some(Proxy { name, pids: vec![pid], way, inside: None, child: Some(child) })
    };
    peers.into_iter().filter_map(start).collect()
}
