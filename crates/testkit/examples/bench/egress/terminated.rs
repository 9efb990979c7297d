//! Requests by TLS that is looked into, with a credential put in, beside mitmproxy, which puts the same header in.
//!
//! Client and server are the same for both, and so is HTTP: 1.1, on connections that are kept. The server answers nothing that
//! has not got the credential.

use super::load::Way;
use super::proxies::{self, Proxy};
use super::{NAME, at};
use crate::rows::{Rows, Target};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use testkit::{Internet, World};

const VALUE: &str = "sk-measured-0123456789abcdef";
const HEADER: &str = "x-api-key";
/// Connections at the same time.
const CLIENTS: usize = 8;
/// Requests of each of them in a round.
const OURS: usize = 2000;
const THEIRS: usize = 100;

const POLICY: &str = r#"
version = 1
[egress]
preset = "none"
[[egress.rule]]
action = "allow"
host = "api.example.com"
[[egress.inject]]
secret = "api"
host = "api.example.com"
header = "x-api-key"
"#;

/// A proxy, and whom its clients have to trust.
struct Terminating {
    proxy: Proxy,
    client: Arc<ClientConfig>,
    requests: usize,
    /// Requests in a second and processor time of each, in each round.
    taken: Vec<(f64, f64)>,
}

/// Takes the rows, on a thread that goes to a small internet for good.
pub fn measure(rounds: usize, rows: &mut Rows) {
    eprintln!("terminated: {rounds} rounds");
    thread::scope(|scope| scope.spawn(|| there(rounds, rows)).join().expect("the section ends"));
}

fn there(rounds: usize, rows: &mut Rows) {
    let net = Internet::enter();
    net.name(NAME, &["51.15.0.1"]);
    let server: SocketAddr = "51.15.0.1:443".parse().expect("an address");
    serve(net.listen(server), &net.certificate(&[NAME]));
    let world = World::start_in(&net);
    let mut all = vec![ours(&world)];
    all.extend(mitmproxy(&world, server));
    for each in &all {
        until_served(each);
    }
    for _ in 0..rounds {
        for each in &mut all {
            let before = each.proxy.processor();
            let took = at(&each.proxy, || requests(&each.proxy.way, &each.client, each.requests));
            let count = (CLIENTS * each.requests) as f64;
            let used = (each.proxy.processor() - before) / count * 1e6;
            each.taken.push((count / took.as_secs_f64(), used));
        }
    }
    let median = |each: &Terminating, of: fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = each.taken.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let [ours, peer] = [all.first(), all.get(1)];
    let ours = ours.expect("ours is there");
    let row = |of| (median(ours, of), peer.map(|peer| (peer.proxy.name, median(peer, of))));
    let (value, peers) = row(|taken| taken.0);
    rows.add("requests by TLS with a credential put in", "/s", value, peers, Target::RatioAtLeast(20.0));
    let (value, peers) = row(|taken| taken.1);
    rows.add("processor time of such a request", "us", value, peers, Target::None);
}

/// An agent whose gate puts the credential in.
fn ours(world: &World) -> Terminating {
    world.cli_with(&["secret", "set", "api"], VALUE.as_bytes()).ok();
    let policy = world.dir().join("terminated.toml");
    fs::write(&policy, POLICY).expect("a policy");
    world.create("one", &["--level", "process", "--policy", &policy.display().to_string()]);
    let init = world.newest_init().expect("the agent runs");
    let inside = File::open(format!("/proc/{init}/ns/net")).expect("its network");
    let trusted = format!("/proc/{init}/root/run/cofferdam/ca.pem");
    let pids = vec![world.pid_of("gate").expect("a gate"), world.pid_of("node").expect("node")];
    let way = Way::Name(NAME, 443);
    Terminating {
        proxy: Proxy { name: "cofferdam", pids, way, inside: Some(inside), child: None },
        client: client(&fs::read(trusted).expect("the agent's authority")),
        requests: OURS,
        taken: Vec::new(),
    }
}

/// The peer, if it is installed. It verifies the server by the same authorities, and keeps nothing.
fn mitmproxy(world: &World, server: SocketAddr) -> Option<Terminating> {
    let dir = world.dir().join("mitmproxy");
    fs::create_dir(&dir).expect("a folder for mitmproxy");
    let listens = SocketAddr::from(([127, 0, 0, 1], 3131));
    let mut command = Command::new("mitmdump");
    command.args(["--quiet", "--listen-host", "127.0.0.1", "--listen-port", "3131"]);
    command.args(["--modify-headers", &format!("/~q/{HEADER}/{VALUE}")]);
    for set in [
        format!("confdir={}", dir.display()),
        format!("ssl_verify_upstream_trusted_ca={}", world.dir().join("ca.pem").display()),
        "http2=false".to_owned(),
        "flow_detail=0".to_owned(),
    ] {
        command.args(["--set", &set]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(|error| eprintln!("    without mitmproxy: {error}")).ok()?;
    let pid = i32::try_from(child.id()).expect("a pid");
    let way = Way::Connect(listens, server);
    let proxy = Proxy { name: "mitmproxy", pids: vec![pid], way, inside: None, child: Some(child) };
    proxies::until_it_listens("mitmproxy", listens);
    let client = client(&fs::read(dir.join("mitmproxy-ca-cert.pem")).expect("mitmproxy's authority"));
    Some(Terminating { proxy, client, requests: THEIRS, taken: Vec::new() })
}

fn client(trusted: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(trusted).map_while(Result::ok));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().expect("versions of TLS");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Until the credential is there.
fn until_served(each: &Terminating) {
    let begun = Instant::now();
    while !at(&each.proxy, || ask(&each.proxy.way, &each.client, 1).is_ok()) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} does not pass requests on", each.proxy.name);
        thread::sleep(Duration::from_millis(20));
    }
}

/// So many requests by each of the clients.
fn requests(way: &Way, client: &Arc<ClientConfig>, count: usize) -> Duration {
    let way = way.resolved();
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| ask(&way, client, count).expect("answers"));
        }
    });
    begun.elapsed()
}

/// So many on one connection.
fn ask(way: &Way, client: &Arc<ClientConfig>, count: usize) -> io::Result<()> {
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let tls = ClientConnection::new(client.clone(), name).map_err(io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(tls, way.connect()?));
    let request = format!("GET /v1/items HTTP/1.1\r\nHost: {NAME}\r\nAccept: */*\r\n{HEADER}: none\r\n\r\n");
    for _ in 0..count {
        stream.get_mut().write_all(request.as_bytes())?;
        let head = head(&mut stream)?;
        if !head.first().is_some_and(|line| line.starts_with("HTTP/1.1 200")) {
            return Err(io::Error::other(head.join(" | ")));
        }
        stream.read_exact(&mut [0; 2])?;
    }
    Ok(())
}

/// The lines of a head.
fn head(stream: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

/// Answers each request that has the credential.
fn serve(listener: TcpListener, certificate: &str) {
    let key = PrivateKeyDer::from_pem_slice(certificate.as_bytes()).expect("a key");
    let shown = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().expect("versions of TLS").with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![shown], key).expect("a configuration"));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let config = config.clone();
            thread::spawn(move || drop(answer(stream, config)));
        }
    });
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(tls, stream));
    let credential = format!("{HEADER}: {VALUE}");
    loop {
        let has = head(&mut stream)?.iter().any(|line| line.eq_ignore_ascii_case(&credential));
        let status = if has { "200 OK" } else { "401 Unauthorized" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok");
        stream.get_mut().write_all(answer.as_bytes())?;
    }
}
