//! What a boundary must still let through: the work that agents do.

use testkit::World;

const LOCAL_DEB: &str = r#"
set -e
mkdir -p /tmp/deb/DEBIAN /tmp/deb/opt/hello
printf 'Package: hello-local\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n' > /tmp/deb/DEBIAN/control
printf '#!/bin/sh\nadduser --system --quiet hello-user || useradd -r hello-user\nchown hello-user /opt/hello/file\n' > /tmp/deb/DEBIAN/postinst
chmod 755 /tmp/deb/DEBIAN/postinst
echo content > /tmp/deb/opt/hello/file
dpkg-deb --build /tmp/deb /tmp/hello.deb >/dev/null
apt-get install -y /tmp/hello.deb
stat -c %U /opt/hello/file
dpkg -s hello-local | grep Status
"#;

const LOCAL_WHEEL: &str = r#"
import subprocess, sys, zipfile
name = "/tmp/greeting-1.0-py3-none-any.whl"
with zipfile.ZipFile(name, "w") as wheel:
    wheel.writestr("greeting.py", "def greet(): return 'hello from a wheel'\n")
    wheel.writestr("greeting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    wheel.writestr("greeting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("greeting-1.0.dist-info/RECORD", "")
subprocess.run([sys.executable, "-m", "pip", "install", "--no-index", name], check=True)
print(subprocess.run([sys.executable, "-c", "import greeting; print(greeting.greet())"], check=True, capture_output=True, text=True).stdout)
"#;

const ORDINARY: &str = r#"
import asyncio, concurrent.futures, ctypes, mmap, multiprocessing, os, signal, socket, subprocess, tempfile, threading, time

def check(name, function):
    try:
        function()
        print("ok", name, flush=True)
    except Exception as error:
        print("BROKEN", name, repr(error), flush=True)

def tcp(family, host):
    server = socket.create_server((host, 0), family=family)
    client = socket.create_connection(server.getsockname()[:2])
    peer, _ = server.accept()
    client.sendall(b"x"); assert peer.recv(1) == b"x"

def low_port():
    socket.create_server(("127.0.0.1", 80)).close()

def unix():
    path = tempfile.mktemp()
    server = socket.socket(socket.AF_UNIX); server.bind(path); server.listen()
    client = socket.socket(socket.AF_UNIX); client.connect(path)
    a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
    abstract = socket.socket(socket.AF_UNIX); abstract.bind("\0mine")

def links():
    folder = tempfile.mkdtemp()
    open(folder + "/a", "w").write("x")
    os.link(folder + "/a", folder + "/b"); os.symlink("a", folder + "/c"); os.rename(folder + "/b", folder + "/d")
    os.mkfifo(folder + "/f"); os.truncate(folder + "/a", 5); os.utime(folder + "/a", (1, 1))

def processes():
    assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(int, "12345678")) == 36

def shared_memory():
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=1 << 20); block.buf[0] = 7; block.close(); block.unlink()
    multiprocessing.Semaphore(1)
    mmap.mmap(-1, 1 << 20).close()
    os.close(os.memfd_create("x"))

def traced():
    # A debugger on one's own child.
    libc = ctypes.CDLL(None, use_errno=True)
    pid = os.fork()
    if pid == 0:
        libc.ptrace(0, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    assert libc.ptrace(7, pid, 0, 0) == 0
    os.waitpid(pid, 0)

def signals():
    got = []
    signal.signal(signal.SIGALRM, lambda *_: got.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not got: time.sleep(0.05)
    child = subprocess.Popen(["sleep", "60"]); child.terminate(); assert child.wait() == -15

def inotify():
    libc = ctypes.CDLL(None); fd = libc.inotify_init1(0); assert fd >= 0
    assert libc.inotify_add_watch(fd, b"/tmp", 0x100) >= 0

def loop():
    async def main():
        reader = await asyncio.create_subprocess_exec("echo", "x", stdout=-1)
        assert (await reader.communicate())[0] == b"x\n"
    asyncio.run(main())

def terminal():
    import pty
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp("echo", ["echo", "tty"])
    assert b"tty" in os.read(fd, 64)
    os.waitpid(pid, 0)

def identity():
    import getpass, pwd
    print(getpass.getuser(), os.getcwd(), os.environ["HOME"], socket.gethostname())
    pwd.getpwuid(os.getuid())

def devices():
    open("/dev/null", "w").write("x"); assert open("/dev/zero", "rb").read(4) == b"\0" * 4; open("/dev/urandom", "rb").read(8)
    assert os.path.realpath("/dev/stdin")

check("tcp4", lambda: tcp(socket.AF_INET, "127.0.0.1"))
check("tcp6", lambda: tcp(socket.AF_INET6, "::1"))
check("low port", low_port)
for function in (unix, links, processes, shared_memory, traced, signals, inotify, loop, terminal, identity, devices):
    check(function.__name__, function)
"#;

#[test]
fn ordinary_programs_run() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("worker", &["--memory", "1GiB"]);
    for user in ["agent", "root"] {
        let ran = world.python("worker", user, &[], ORDINARY, &[]).ok();
        println!("{}", ran.out);
        assert!(!ran.out.contains("BROKEN"), "as {user}: {}", ran.out);
        assert_eq!(ran.out.matches("ok ").count(), 14, "{}", ran.out);
    }
}

#[test]
fn root_inside_installs_packages() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("builder", &["--memory", "1GiB"]);
    let ran = world.cli(&["exec", "-u", "root", "builder", "--", "sh", "-c", LOCAL_DEB]).ok();
    assert!(ran.out.contains("hello-user"), "{}", ran.out);
    assert!(ran.out.contains("install ok installed"), "{}", ran.out);
    let ran = world.python("builder", "root", &[], LOCAL_WHEEL, &[]).ok();
    assert!(ran.out.contains("hello from a wheel"), "{}", ran.out);
    let ran = world
        .cli(&["exec", "-u", "root", "builder", "--", "chown", "-R", "agent", "/opt", "/usr/share/doc"])
        .ok();
    assert_eq!(ran.out, "");
    let git = "cd ~ && git init -q r && cd r && git config user.email a@b && git config user.name a && echo x > f && git add f && git commit -qm x && git log --oneline | wc -l";
    assert_eq!(world.sh("builder", git).ok().out.trim(), "1");
}

#[test]
fn one_call_makes_an_agent_and_another_runs_a_command_in_it() {
    let world = World::start();
    let (runtime, control) = world.control();
    runtime.block_on(async {
        let request = serde_json::json!({"image": "debian", "name": "one", "token": {"scopes": ["exec"]}});
        let request = serde_json::from_value(request).unwrap();
        let (agent, workspace) = control.start_agent(&request, 60).await.unwrap();
        assert_eq!(agent.state, model::AgentState::Running, "{:?}", agent.reason);
        let workspace = workspace.expect("a way in");
        let run = async |argv: &[&str], seconds| {
            let create = serde_json::from_value(serde_json::json!({"argv": argv})).unwrap();
            workspace.run(&create, seconds).await
        };
        let said = run(&["sh", "-c", "echo out; echo err >&2; exit 3"], 30).await.unwrap();
        assert_eq!(said.exec.exit.map(|exit| exit.code), Some(3));
        assert_eq!(said.stdout.into_bytes().unwrap(), b"out\n");
        assert_eq!(said.stderr.into_bytes().unwrap(), b"err\n");
        // What would not fit into an answer ends the command.
        let much = run(&["head", "-c", "16M", "/dev/zero"], 30).await.unwrap();
        let exit = much.exec.exit.expect("it was ended");
        assert_eq!(exit.cause, Some(model::workspace::ExitCause::OutputLimit), "{exit:?}");
        let much = much.stdout.into_bytes().unwrap().len();
        assert!((1..=2 << 20).contains(&much), "{much} bytes");
        // What takes longer goes on, and can be attached to.
        let long = run(&["sh", "-c", "echo begun; sleep 3; echo done"], 1).await.unwrap();
        assert_eq!((long.exec.exit, long.stdout.into_bytes().unwrap()), (None, b"begun\n".to_vec()));
        let (_sender, mut rest) = workspace.attach(long.exec.id).await.unwrap().split();
        let mut output = Vec::new();
        loop {
            match rest.next().await.unwrap() {
                client::Incoming::Stdout(data) => output.extend_from_slice(&data),
                client::Incoming::Exited(exit) => break assert_eq!(exit.code, 0),
                other => panic!("{other:?}"),
            }
        }
        assert!(output.ends_with(b"done\n"), "{output:?}");
        // Nothing that the token does not say.
        assert!(workspace.read("/etc/hostname", None).await.is_err());
    });
}
