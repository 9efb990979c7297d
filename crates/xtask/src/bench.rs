//! What it costs to make, use and remove an agent from the command line, beside what the peers' command lines cost:
//! `true`, in turn, in one run. Agents run Debian's, the peers a static one, which is a little in the peers' favour; and
//! the peers neither make a disk nor keep a record. Medians, because a machine has other things to do at times.

use crate::shell::{self, step};
use crate::{binaries, setup};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 30;
const AGENT: &str = "bench";
/// Ratios are to this row.
const PEER: &str = "runc run";

/// The chore.
pub fn run() -> Result<()> {
    if !shell::is_root() {
        bail!("making boundaries needs root: become root first");
    }
    setup::packages()?;
    setup::install(&["bubblewrap", "busybox-static", "runc"])?;
    binaries::build()?;
    let cofferdam = shell::release_dir().join("cofferdam");
    let list = Command::new(&cofferdam).args(["image", "ls"]).output()?;
    if !list.status.success() || !String::from_utf8_lossy(&list.stdout).contains("debian") {
        bail!("Cofferdam does not run here, or has no image `debian`: run `make quickstart` first");
    }
    let bundle = Bundle::make()?;
    // What an earlier run that was cut off left.
    shell::succeeds(Command::new(&cofferdam).args(["rm", "--force", AGENT]));

    step(&format!("{ROUNDS} rounds"));
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..ROUNDS {
        let mut time = |name: &'static str, command: &mut Command| -> Result<()> {
            let took = timed(command)?;
            match rows.iter_mut().find(|row| row.name == name) {
                Some(row) => row.took.push(took),
                None => rows.push(Row { name, took: vec![took] }),
            }
            Ok(())
        };
        let call = |arguments: &[&str]| {
            let mut command = Command::new(&cofferdam);
            command.args(arguments);
            command
        };
        time("cofferdam create", &mut call(&["create", "--name", AGENT]))?;
        time("cofferdam exec", &mut call(&["exec", AGENT, "--", "true"]))?;
        time("cofferdam rm", &mut call(&["rm", "--force", AGENT]))?;
        time("cofferdam run", &mut call(&["run", "--", "true"]))?;
        time(PEER, &mut bundle.runc())?;
        time("bwrap", &mut bundle.bwrap())?;
    }
    print(&rows);
    let load = fs::read_to_string("/proc/loadavg")?;
    println!("\nload average at the end: {}", load.split(' ').next().unwrap_or_default());
    Ok(())
}

struct Row {
    name: &'static str,
    took: Vec<Duration>,
}

impl Row {
    /// The value that this share of the rounds stayed within, in milliseconds.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.took.clone();
        sorted.sort();
        let index = ((sorted.len() - 1) as f64 * share).round() as usize;
        sorted[index].as_secs_f64() * 1000.0
    }
}

fn print(rows: &[Row]) {
    let peer = rows.iter().find(|row| row.name == PEER).map_or(f64::NAN, |row| row.quantile(0.5));
    println!("\n{:<18} {:>10} {:>10} {:>12}", "", "median ms", "p90 ms", format!("× {PEER}"));
    for row in rows {
        let median = row.quantile(0.5);
        println!("{:<18} {median:>10.1} {:>10.1} {:>12.2}", row.name, row.quantile(0.9), median / peer);
    }
}

fn timed(command: &mut Command) -> Result<Duration> {
    let said = shell::describe(command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let output = command.output().with_context(|| format!("cannot run `{said}`"))?;
    let took = started.elapsed();
    if !output.status.success() {
        bail!("`{said}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(took)
}

/// A root file system of one program for the peers, removed when dropped.
struct Bundle {
    dir: PathBuf,
}

impl Bundle {
    fn make() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("cofferdam-bench-{}", std::process::id()));
        let bundle = Self { dir };
        let bin = bundle.root().join("bin");
        fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
        for folder in ["proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(bundle.root().join(folder))?;
        }
        let busybox = Path::new("/bin/busybox");
        fs::copy(busybox, bin.join("true")).context("cannot copy /bin/busybox")?;
        fs::set_permissions(bin.join("true"), fs::Permissions::from_mode(0o755))?;
        shell::run(Command::new("runc").args(["spec", "--bundle"]).arg(&bundle.dir))?;
        let config = bundle.dir.join("config.json");
        let text = fs::read_to_string(&config)?;
        fs::write(
            &config,
            text.replace("\"terminal\": true", "\"terminal\": false").replace("\"sh\"", "\"true\""),
        )?;
        Ok(bundle)
    }

    fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    fn runc(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("run").arg("--bundle").arg(&self.dir).arg("cofferdam-bench");
        command
    }

    fn bwrap(&self) -> Command {
        let mut command = Command::new("bwrap");
        command.arg("--unshare-all").arg("--ro-bind").arg(self.root()).args(["/", "--proc", "/proc"]);
        command.args(["--dev", "/dev", "/bin/true"]);
        command
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
