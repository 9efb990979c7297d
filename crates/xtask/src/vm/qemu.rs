//! One run of the machine: QEMU as a child that ends with us, whatever ends us.

use super::image::{self, Machine};
use super::{Job, Outcome};
use crate::shell::{self, step};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

/// Which accelerator QEMU uses. Its own translation works everywhere; that `/dev/kvm` opens says nothing about whether
/// a guest runs on it, so KVM is for whoever knows.
const ACCELERATOR: &str = "COFFERDAM_VM_ACCEL";

pub(super) fn run(machine: &Machine, job: &Job) -> Result<Outcome> {
    let bundle = Bundle::pack(job)?;
    let started = Instant::now();
    let result = bundle.dir.join("result");
    let console = image::dir().join("console.log");
    let mut child = Qemu(command(machine, job, &bundle, &console)?.spawn().context("cannot start QEMU")?);
    let output = child.0.stdout.take().context("QEMU has no output")?;
    let (done, ended) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let text = pass_on(output);
        let _ = done.send(());
        text
    });
    // Its output ends when it does.
    let in_time = ended.recv_timeout(job.within).is_ok();
    drop(child);
    let output = reader.join().unwrap_or_default();
    let shown = console.display();
    if !in_time {
        bail!("the machine was not done after {} minutes; its console: {shown}", job.within.as_secs() / 60);
    }
    let code = fs::read_to_string(&result).unwrap_or_default();
    let code = code
        .trim()
        .parse()
        .with_context(|| format!("the machine ended without a result; its console: {shown}"))?;
    step(&format!("the machine ran for {:.1} s", started.elapsed().as_secs_f64()));
    Ok(Outcome { code, output })
}

/// Prints lines as they come, and keeps them.
fn pass_on(output: ChildStdout) -> String {
    let mut text = String::new();
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let said = String::from_utf8_lossy(&line);
        print!("{said}");
        text.push_str(&said);
        line.clear();
    }
    text
}

/// A QEMU that is ended, and waited for, when this is dropped.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended itself: then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(machine: &Machine, job: &Job, bundle: &Bundle, console: &Path) -> Result<Command> {
    let accelerator = std::env::var(ACCELERATOR).unwrap_or_else(|_| "tcg".to_owned());
    let script = job.script.file_name().context("the script has no name")?.to_string_lossy();
    // Dies with the thread that starts it, so also when that is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    // No newer one: what QEMU 7.2 makes of AVX is wrong now and then, which systemd takes for failed mounts.
    let cpu = if accelerator.starts_with("tcg") { "Nehalem" } else { "host" };
    command.args(["-accel", &accelerator, "-machine", "q35", "-cpu", cpu, "-smp", "2", "-m", "6144"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"]);
    if job.boots == 1 {
        command.arg("-no-reboot");
    }
    command.arg("-kernel").arg(&machine.kernel).arg("-initrd").arg(&machine.initrd);
    command.args([
        "-append",
        &format!("console=ttyS0 rw panic=-1 systemd.show_status=error vm.script={script}"),
    ]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    let mut disk = |name: &str, file: &Path, options: &str| {
        command.arg("-drive").arg(format!("id={name},file={},format=raw,if=none,{options}", file.display()));
        command.args(["-device", &format!("virtio-blk-pci,drive={name}")]);
    };
    disk("root", &machine.disk, "snapshot=on,cache=unsafe,discard=unmap");
    disk("job", &bundle.image, "readonly=on");
    command.args(["-device", "virtio-serial-pci", "-device", "virtio-rng-pci"]);
    let result = format!("file,id=result,path={}", bundle.dir.join("result").display());
    for (name, chardev) in [("output", "stdio,id=output,signal=off"), ("result", result.as_str())] {
        command.args(["-chardev", chardev, "-device", &format!("virtserialport,chardev={name},name={name}")]);
    }
    // Where the snapshot is.
    command.env("TMPDIR", image::dir());
    // At the end of its input QEMU would close the port of the output; nothing is ever written there.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

/// The second disk: script and files in one EROFS image, and beside it what the run writes. Gone when dropped.
struct Bundle {
    dir: PathBuf,
    image: PathBuf,
}

impl Bundle {
    fn pack(job: &Job) -> Result<Self> {
        let dir = image::dir().join(format!("job-{}", std::process::id()));
        let bundle = Self { image: dir.join("image"), dir };
        let content = bundle.dir.join("content");
        fs::create_dir_all(&content).with_context(|| format!("cannot make {}", content.display()))?;
        for path in std::iter::once(&job.script).chain(&job.with) {
            // Of files within the same file system only another name is made.
            let mut copy = Command::new("cp");
            copy.args(["--archive", "--dereference", "--link", "--"]).arg(path).arg(&content);
            if !shell::succeeds(&mut copy) {
                shell::run(
                    Command::new("cp").args(["--archive", "--dereference", "--"]).arg(path).arg(&content),
                )?;
            }
        }
        shell::run(Command::new("mkfs.erofs").arg("--quiet").arg(&bundle.image).arg(&content))?;
        Ok(bundle)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
