//! One agent takes all that it gets of each kind of kernel object. What that costs is its own memory, or little; the
//! host and its neighbour go on.

use crate::faults::eventually;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use testkit::World;

const MASS: &str = include_str!("inside/mass.py");
/// What the greedy one may use.
const MEMORY: u64 = 96 << 20;
/// What may be charged to nobody: small parts of objects whose larger parts are charged, and other work of the machine.
const SLACK: u64 = 128 << 20;

/// Bytes of the kernel's own memory, and of what it shares between processes.
fn kernel_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).expect("its line");
        line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).expect("a number") << 10
    };
    ["SUnreclaim:", "KernelStack:", "PageTables:", "Percpu:", "Shmem:"].map(of).iter().sum()
}

/// An agent that holds what it got until this is dropped.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Starts one attempt, and waits until it got no more. `None`: it was ended for memory.
fn attempt(world: &World, agent: &str, user: &str, name: &str) -> (Holder, Option<u64>) {
    let wait = testkit::patience(4).as_secs().to_string();
    let program = ["exec", "-i", "-u", user, agent, "--", "python3", "-c", MASS, name, &wait];
    let mut child =
        world.command(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("an exec");
    let mut held = None;
    for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("output");
        println!("  {user} {name}: {line}");
        if let Some(count) = line.strip_prefix("held: ") {
            held = Some(count.parse().expect("a number"));
            break;
        }
    }
    (Holder(child), held)
}

/// The host and another agent still do everyday things.
fn others_go_on(world: &World, what: &str) {
    let program = "import os, select, socket, tempfile, fcntl\n\
         a, b = socket.socketpair(); a.send(b'x'); b.recv(1)\n\
         f = tempfile.TemporaryFile(); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB); os.eventfd(0)\n\
         l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname())\n\
         d, _ = l.accept(); c.send(b'x' * 4000); c.close()\n\
         n = 0\n\
         while True:\n\
         \x20   part = d.recv(4096); n += len(part)\n\
         \x20   if not part: break\n\
         assert n == 4000, n\n\
         print('fine')";
    let said = world.python("neighbour", "agent", &[], program, &[]).ok().out;
    assert_eq!(said, "fine\n", "{what}");
    let host = Command::new("python3").args(["-c", &program.replace("os.eventfd(0)", "0")]).status();
    assert!(host.expect("python on the host").success(), "{what}");
}

/// Tries all of these, each in a fresh agent, and says all that went wrong.
fn all_stay_within(users: &[&str], attempts: &[(&str, u64)]) {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("neighbour", &[]);
    let mut wrong = Vec::new();
    for (name, least) in attempts {
        for user in users {
            world.create("greedy", &["--memory", "96MiB", "--pids", "256", "--disk", "256MiB"]);
            let before = kernel_bytes();
            let (holder, held) = attempt(&world, "greedy", user, name);
            let taken = kernel_bytes().saturating_sub(before);
            println!("  {user} {name}: {held:?}, {} MiB of the host", taken >> 20);
            if taken > MEMORY + SLACK {
                wrong.push(format!("{name} as {user}: {} MiB of the host", taken >> 20));
            }
            if held.is_some_and(|held| held < *least) {
                wrong.push(format!("{name} as {user}: only {held:?}"));
            }
            others_go_on(&world, name);
            drop(holder);
            world.cli(&["rm", "-f", "greedy"]).ok();
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn shared_memory_and_messages_are_the_agents_own() {
    let users = ["agent", "root"];
    all_stay_within(
        &users,
        &[("shared_memory", 8), ("semaphores", 1), ("messages", 16), ("posix_queues", 0)],
    );
}

#[test]
fn descriptors_of_all_kinds_are_the_agents_own() {
    all_stay_within(
        &["agent"],
        &[
            ("events", 100),
            ("timer_descriptors", 100),
            ("signal_descriptors", 100),
            ("polls", 100),
            ("pipes", 10),
            ("unix_sockets", 10),
            ("in_flight", 1),
            // At the memory limit it may be too slow to say how many it has.
            ("datagrams", 0),
            ("watches", 100),
        ],
    );
}

#[test]
fn locks_of_files_are_counted() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("greedy", &["--pids", "256"]);
    world.create("neighbour", &[]);
    // After too many, none is given for a moment.
    let one = "import fcntl, tempfile; fcntl.lockf(tempfile.TemporaryFile(), fcntl.LOCK_EX | fcntl.LOCK_NB)";
    let rested =
        || eventually("there are locks again", || world.python("greedy", "agent", &[], one, &[]).code == 0);
    for user in ["agent", "root"] {
        rested();
        let (_holder, held) = attempt(&world, "greedy", user, "locks");
        let held = held.expect("it was told that there are no more");
        assert!((4096..=16_384).contains(&held), "{held} locks as {user}");
        others_go_on(&world, "locks");
    }
    // Those of a process that is gone are no more, however it went about it; and few at a time are never too many.
    rested();
    for user in ["agent", "root"] {
        world.python("greedy", user, &[], LOCKS_IN_TURN, &[]).ok();
    }
    world.python("greedy", "agent", &[], LOCKS_BY_DETOURS, &[]).ok();
    for way in ["mapping", "message"] {
        let held = world.python("greedy", "agent", &[], LOCKS_WITHOUT_DESCRIPTORS, &[way]).ok().out;
        assert_eq!(held, "0\n", "locks that only a {way} keeps");
    }
}

/// Locks of open file descriptions that no descriptor leads to any more.
const LOCKS_WITHOUT_DESCRIPTORS: &str = r"
import ctypes, fcntl, os, socket, struct, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
where = tempfile.mkdtemp(dir=os.path.expanduser('~'))
total, kept = 0, []
try:
    for index in range(20):
        file = os.open(f'{where}/{index}', os.O_CREAT | os.O_RDWR)
        os.ftruncate(file, 4096)
        for byte in range(0, 4000, 2):
            fcntl.fcntl(file, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, byte, 1, 0))
            total += 1
        if sys.argv[1] == 'mapping':
            assert libc.mmap(None, 4096, 1, 1, file, 0) not in (None, 2**64 - 1)
        else:
            pair = socket.socketpair()
            socket.send_fds(pair[0], [b'x'], [file])
            kept.append(pair)
        os.close(file)
except OSError as error:
    print(error, file=sys.stderr)
print(total)
";

const LOCKS_IN_TURN: &str = r"
import fcntl, os, sqlite3, tempfile
file = tempfile.TemporaryFile()
for turn in range(50_000):
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, turn % 100 * 2)
    fcntl.lockf(file, fcntl.LOCK_UN)
base = sqlite3.connect(os.path.expanduser('~/base'))
base.execute('create table if not exists t (x)')
for turn in range(300):
    with base: base.execute('insert into t values (1)')
";

/// Locks that outlive the process that took them, and those of many processes.
const LOCKS_BY_DETOURS: &str = r"
import ctypes, fcntl, os, signal, tempfile
libc = ctypes.CDLL(None, use_errno=True)
where = tempfile.mkdtemp(dir=os.path.expanduser('~'))
read, write = os.pipe()
children, total = [], 0
def take(index):
    file = os.open(f'{where}/{index}', os.O_CREAT | os.O_RDWR)
    count = 0
    try:
        for byte in range(0, 2000, 2):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            count += 1
    except OSError: pass
    return count
for index in range(60):
    pid = os.fork()
    if pid == 0:
        count = take(index)
        if index % 3 == 0:
            # A child with the same table of descriptors keeps the locks; the one that took them ends.
            again = libc.syscall(56, 0x400 | signal.SIGCHLD, 0, 0, 0, 0) if os.uname().machine == 'x86_64' else -1
            if again != 0:
                os.write(write, b'%8d' % count)
                if again > 0: os._exit(0)
        else:
            os.write(write, b'%8d' % count)
        signal.pause()
    children.append(pid)
    total += int(os.read(read, 8))
print('locks by detours:', total)
for pid in children:
    try: os.kill(pid, signal.SIGKILL)
    except ProcessLookupError: pass
assert total <= 16384, total
assert total >= 4096, total
";

#[test]
fn connections_that_nobody_closes_are_bounded() {
    all_stay_within(&["agent"], &[("orphans", 1), ("waits", 1000)]);
}

#[test]
fn the_last_inode_is_the_volumes() {
    all_stay_within(&["agent"], &[("inodes", 1000)]);
}

/// All execs that there may be, and more: a clear answer, and an agent that serves again once they ended.
#[test]
fn a_thousand_execs_get_an_answer() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("busy", &["--pids", "600"]);
    world.create("neighbour", &[]);
    let (runtime, control) = world.control();
    let scopes = [model::token::Scope::Exec];
    let id = runtime.block_on(control.agent("busy")).expect("the agent").id;
    let token = runtime.block_on(control.workspace_token("busy", &scopes)).expect("a token");
    let workspace = client::Workspace::new(id, &token).expect("a workspace");
    let request = serde_json::json!({"argv": ["sleep", "300"]});
    let (mut started, mut refused) = (Vec::new(), 0);
    for _ in 0..1000 {
        let request = serde_json::from_value(request.clone()).expect("a request");
        match runtime.block_on(workspace.exec(&request)) {
            Ok(exec) => started.push(exec.id),
            Err(error) => {
                assert!(error.to_string().contains("256"), "{error}");
                refused += 1;
            }
        }
    }
    println!("{} started, {refused} refused", started.len());
    assert_eq!((started.len(), refused), (256, 744));
    others_go_on(&world, "execs");
    for id in started {
        runtime.block_on(workspace.signal(id, 9)).expect("a signal");
    }
    assert_eq!(world.sh("busy", "echo again").ok().out, "again\n");
}
