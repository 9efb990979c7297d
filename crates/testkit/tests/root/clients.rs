//! Programs that people use, inside an agent: each fetches something through the gate, from a server that its policy names.

use crate::egress::make_with;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use testkit::{Internet, World};

const POLICY: &str = r#"
version = 1
[egress]
preset = "none"
[[egress.rule]]
action = "allow"
host = "*.example.com"
[[egress.rule]]
action = "allow"
host = "git.example.com"
ports = [22]
"#;

/// Serves files, by TLS where it is given a certificate.
const FILES: &str = r#"
import functools, http.server, json, os, ssl, sys
address, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
class Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_GET(self):
        # The registry's document of a package lies beside its files.
        if self.path == "/hello" and self.headers["Host"].startswith("npm."): self.path = "/hello.json"
        super().do_GET()
server = http.server.ThreadingHTTPServer((address, port), functools.partial(Files, directory=folder))
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

const NAMES: [&str; 4] = ["files.example.com", "git.example.com", "pypi.example.com", "npm.example.com"];

/// What each prints when it got what it asked for: a program of the shell, with its name.
const CLIENTS: [(&str, &str); 9] = [
    ("curl", "curl --fail --silent --show-error --cacert $CA https://files.example.com/hello.txt"),
    ("curl, plain", "curl --fail --silent --show-error http://deb.example.com/hello.txt"),
    (
        "python",
        "python3 -c 'import ssl, urllib.request as u; print(u.urlopen(\"https://files.example.com/hello.txt\", context=ssl.create_default_context(cafile=\"/tmp/ca.pem\")).read().decode())'",
    ),
    (
        "node",
        "NODE_EXTRA_CA_CERTS=$CA node -e 'require(\"https\").get(\"https://files.example.com/hello.txt\", r => r.pipe(process.stdout))'",
    ),
    (
        "git by https",
        "git -c http.sslCAInfo=$CA clone --quiet https://git.example.com/hello.git by-https && cat by-https/hello.txt",
    ),
    (
        "git by ssh",
        "chmod 600 /tmp/key && GIT_SSH_COMMAND='ssh -i /tmp/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR' git clone --quiet root@git.example.com:hello.git by-ssh && cat by-ssh/hello.txt",
    ),
    (
        "pip",
        "/usr/bin/python3 -m pip --quiet --disable-pip-version-check --no-cache-dir download --no-deps --cert $CA --index-url https://pypi.example.com/simple/ hello==1.0 && unzip -p hello-1.0-py3-none-any.whl hello.txt",
    ),
    (
        "npm",
        "npm --silent --cafile $CA --registry https://npm.example.com/ --cache /tmp/npm install hello && cat node_modules/hello/hello.txt",
    ),
    (
        "apt",
        "mkdir -p apt/lists/partial apt/archives/partial && echo 'deb [trusted=yes] http://deb.example.com/ ./' >apt/sources.list && apt=\"apt-get -qq -o APT::Sandbox::User= -o Dir::Etc::SourceList=$PWD/apt/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$PWD/apt/lists -o Dir::Cache=$PWD/apt -o Dir::State::Status=/dev/null\" && $apt update && $apt download hello-there && dpkg-deb --fsys-tarfile hello-there_1.0_all.deb | tar -xO ./hello.txt",
    ),
];

/// A process of the test's own.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

fn sh(folder: &Path, script: &str) {
    let ran = Command::new("sh").args(["-euc", script]).current_dir(folder).output().unwrap();
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// What the servers have: the same words for each client, in its own form.
fn fill(www: &Path) {
    fs::create_dir_all(www.join("simple/hello")).unwrap();
    fs::write(www.join("hello.txt"), "hello there\n").unwrap();
    sh(
        www,
        "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
        git init --quiet work && cp hello.txt work && git -C work add . && git -C work commit --quiet -m hello
        git clone --quiet --bare work hello.git && git -C hello.git update-server-info",
    );
    sh(
        www,
        "mkdir wheel && cd wheel && cp ../hello.txt . && mkdir hello-1.0.dist-info && cd hello-1.0.dist-info
        printf 'Metadata-Version: 2.1\\nName: hello\\nVersion: 1.0\\n' >METADATA
        printf 'Wheel-Version: 1.0\\nGenerator: hand\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n' >WHEEL
        printf 'hello.txt,,\\nhello-1.0.dist-info/METADATA,,\\nhello-1.0.dist-info/WHEEL,,\\nhello-1.0.dist-info/RECORD,,\\n' >RECORD
        cd .. && python3 -m zipfile -c ../simple/hello/hello-1.0-py3-none-any.whl hello.txt hello-1.0.dist-info
        echo '<a href=\"hello-1.0-py3-none-any.whl\">hello</a>' >../simple/hello/index.html",
    );
    sh(
        www,
        "mkdir package && cp hello.txt package && echo '{\"name\":\"hello\",\"version\":\"1.0.0\"}' >package/package.json
        tar -czf hello-1.0.0.tgz package && sum=$(openssl dgst -sha512 -binary hello-1.0.0.tgz | openssl base64 -A)
        printf '{\"name\":\"hello\",\"dist-tags\":{\"latest\":\"1.0.0\"},\"versions\":{\"1.0.0\":{\"name\":\"hello\",\"version\":\"1.0.0\",\
\"dist\":{\"tarball\":\"https://npm.example.com/hello-1.0.0.tgz\",\"integrity\":\"sha512-%s\"}}}}' \"$sum\" >hello.json",
    );
    sh(
        www,
        "mkdir -p deb/DEBIAN && cp hello.txt deb && chmod 755 deb deb/DEBIAN
        printf 'Package: hello-there\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: a <a@example.com>\\nDescription: hello\\n' >deb/DEBIAN/control
        dpkg-deb --build deb hello-there_1.0_all.deb >/dev/null
        { cat deb/DEBIAN/control; echo Filename: ./hello-there_1.0_all.deb
        echo Size: $(stat -c %s hello-there_1.0_all.deb); echo SHA256: $(sha256sum hello-there_1.0_all.deb | cut -d' ' -f1); } >Packages",
    );
}

/// Starts the servers there.
fn serve(net: &Internet, dir: &Path) -> Vec<Server> {
    let www = dir.join("www");
    fs::create_dir(&www).unwrap();
    fill(&www);
    let pem = dir.join("server.pem");
    fs::write(&pem, net.certificate(&NAMES)).unwrap();
    let start = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        Server(net.spawn(command))
    };
    let (www, pem) = (www.display().to_string(), pem.display().to_string());
    let files = |args: &[&str]| start("python3", &[&["-c", FILES], args].concat());
    // A daemon that serves one key, and for that nothing but this repository.
    sh(dir, "ssh-keygen -q -t ed25519 -N '' -f key && ssh-keygen -q -t ed25519 -N '' -f host");
    let public = fs::read_to_string(dir.join("key.pub")).unwrap();
    fs::write(
        dir.join("authorized"),
        format!("restrict,command=\"git-upload-pack {www}/hello.git\" {public}"),
    )
    .unwrap();
    let config = format!(
        "ListenAddress 51.15.0.2:22\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nPermitRootLogin forced-commands-only\nPidFile none\n",
        dir.display()
    );
    fs::write(dir.join("sshd.conf"), config).unwrap();
    fs::create_dir_all("/run/sshd").unwrap();
    fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let servers = vec![
        files(&["51.15.0.1", "443", &www, &pem]),
        files(&["51.15.0.2", "80", &www]),
        start("/usr/sbin/sshd", &["-D", "-e", "-f", &dir.join("sshd.conf").display().to_string()]),
    ];
    let deadline = Instant::now() + Duration::from_secs(30);
    for at in ["51.15.0.1:443", "51.15.0.2:80", "51.15.0.2:22"] {
        while std::net::TcpStream::connect(at).is_err() {
            assert!(Instant::now() < deadline, "nobody listens at {at}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    servers
}

#[test]
fn programs_that_people_use_get_what_the_policy_allows() {
    if !testkit::can_run() {
        return;
    }
    let net = Internet::enter();
    for name in NAMES {
        net.name(name, &["51.15.0.1"]);
    }
    // The first one's other server, for SSH.
    net.name("git.example.com", &["51.15.0.1", "51.15.0.2"]);
    net.name("deb.example.com", &["51.15.0.2"]);
    let world = World::start_in(&net);
    let servers = serve(&net, world.dir());
    make_with(&world, "one", "process", POLICY);
    world.cli(&["cp", &world.dir().join("key").display().to_string(), "one:/tmp/key"]).ok();
    let mut wrong = Vec::new();
    for (name, script) in CLIENTS {
        let ran =
            world.cli(&["exec", "-e", "CA=/tmp/ca.pem", "one", "--", "sh", "-c", &format!("cd && {script}")]);
        if ran.code != 0 || !ran.out.contains("hello there") {
            wrong.push(format!("{name}: {}\n{}{}", ran.code, ran.out, ran.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Their servers are there for nobody whose policy does not name them.
    make_with(&world, "two", "process", "version = 1\n");
    for (name, script) in CLIENTS {
        // Some of them try for long.
        let script = format!("cd && {script}");
        let ran =
            world.cli(&["exec", "-e", "CA=/tmp/ca.pem", "two", "--", "timeout", "4", "sh", "-c", &script]);
        assert!(!ran.out.contains("hello there"), "{name} got out");
    }
    drop(servers);
}
