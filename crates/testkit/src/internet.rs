//! A small internet: a network namespace with public, private and metadata addresses, whose servers are really there to be
//! reached if the gate errs. Nothing of it is visible outside, and it goes with the test.
//!
//! The thread that starts one moves into it for good, and so does whatever it starts: make it before the world.

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Where names are resolved: for node.toml's `[egress] resolver`.
pub(crate) const RESOLVER: &str = "9.9.9.9:53";
/// Where the same resolver speaks TLS, and its name.
const SECURE_RESOLVER: (&str, &str) = ("9.9.9.9:853", "dns.example.net");

/// All addresses that its machines have.
const ADDRESSES: &[&str] = &[
    "9.9.9.9",
    "51.15.0.1",
    "51.15.0.2",
    "51.15.0.3",
    "10.1.2.3",
    "172.16.5.5",
    "192.168.7.7",
    "100.64.1.1",
    "169.254.169.254",
    "198.18.77.77",
    "2a00:1111::1",
    "2a00:1111::2",
    "fd00::5",
    "fd00:ec2::254",
    "64:ff9b::a01:203",
];

/// The small internet. It lives as long as something is in it.
pub struct Internet {
    namespace: File,
    zone: Arc<Mutex<HashMap<String, Answer>>>,
    /// With whether that was in the clear.
    asked: Arc<Mutex<Vec<(String, bool)>>>,
    reached: Arc<Mutex<Vec<Reached>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// What the resolver says of a name.
#[derive(Debug, Clone)]
pub enum Answer {
    /// These, one after the other: each question gets the next, and the last stays.
    Rebinding(Vec<Vec<IpAddr>>),
    /// It is another name's.
    Alias(String),
}

/// A connection that came to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Which.
    pub at: SocketAddr,
    /// Nothing at first, and then the line of each request with its host.
    pub said: String,
}

/// A request that came to a server, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Which.
    pub at: SocketAddr,
    /// Its first line and headers.
    pub head: Vec<String>,
    /// Its body.
    pub body: String,
}

impl Heard {
    /// What it says in this header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.iter().filter_map(|line| line.split_once(": "));
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// What a server speaks.
#[derive(Debug, Clone)]
pub enum Speaks {
    /// It says this first, and then sends back what comes.
    First(&'static str),
    /// HTTP/1.1. Below `/echo` it answers with all that it heard, in a header and in the body.
    Http,
    /// The same in TLS, with a certificate for these names.
    Tls(Vec<&'static str>),
}

impl Internet {
    /// Makes one, and moves this thread into a network namespace that has nothing but a way there.
    pub fn enter() -> Self {
        let (there, here) = (Holder::new(), Holder::new());
        let veth = format!("link add wire type veth peer name wire netns {}", there.pid());
        let [v4, v6] = [("198.51.100.1", "198.51.100.2"), ("2a00:9999::1", "2a00:9999::2")];
        here.ip(&veth);
        for (holder, ends) in [(&here, [v4.0, v6.0]), (&there, [v4.1, v6.1])] {
            holder.ip("link set lo up");
            holder.ip(&format!("addr add {}/24 dev wire", ends[0]));
            holder.ip(&format!("addr add {}/64 dev wire nodad", ends[1]));
            holder.ip("link set wire up");
        }
        for address in ADDRESSES {
            there.ip(&format!("addr add {address} dev lo"));
        }
        here.ip(&format!("route add default via {}", v4.1));
        here.ip(&format!("-6 route add default via {}", v6.1));
        let namespace = there.network();
        enter(&here.network());
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        // Else it would have the name of those that it signs.
        parameters.distinguished_name.push(DnType::CommonName, "a small internet");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(parameters, key).expect("a certificate");
        let (zone, asked, reached, heard) = Default::default();
        let internet = Self { namespace, zone, asked, reached, heard, authority };
        internet.resolve(RESOLVER, None);
        internet.resolve(SECURE_RESOLVER.0, Some(internet.tls(&[SECURE_RESOLVER.1])));
        internet
    }

    /// What agents have to trust to believe the servers, as PEM.
    pub fn authority(&self) -> String {
        self.authority.pem()
    }

    /// Gives a name its addresses.
    pub fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        self.answer(name, Answer::Rebinding(vec![addresses]));
    }

    /// Has the resolver say this of a name.
    pub fn answer(&self, name: &str, answer: Answer) {
        lock(&self.zone).insert(name.to_owned(), answer);
    }

    /// The names that were asked for so far.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.asked).iter().map(|(name, _)| name.clone()).collect()
    }

    /// Those of them that anybody on the way could read.
    pub fn asked_in_the_clear(&self) -> Vec<String> {
        lock(&self.asked).iter().filter(|(_, clear)| *clear).map(|(name, _)| name.clone()).collect()
    }

    /// The connections that came so far.
    pub fn reached(&self) -> Vec<Reached> {
        lock(&self.reached).clone()
    }

    /// The requests that came so far.
    pub fn heard(&self) -> Vec<Heard> {
        lock(&self.heard).clone()
    }

    /// Starts a server.
    pub fn serve(&self, at: &str, speaks: Speaks) {
        let at: SocketAddr = at.parse().expect("an address and a port");
        let listener = self.listen(at);
        let tls = match &speaks {
            Speaks::Tls(names) => Some(self.tls(names)),
            Speaks::First(_) | Speaks::Http => None,
        };
        let (reached, heard) = (self.reached.clone(), self.heard.clone());
        each(listener, move |mut stream| {
            let note = |said: String| lock(&reached).push(Reached { at, said });
            let hear = |request: Heard| lock(&heard).push(request);
            // Also when nothing more comes of it.
            note(String::new());
            match (&speaks, &tls) {
                (Speaks::First(banner), _) => {
                    stream.write_all(banner.as_bytes())?;
                    io::copy(&mut stream.try_clone()?, &mut stream)?;
                    Ok(())
                }
                (_, Some(config)) => {
                    let server = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                    answer_http(StreamOwned::new(server, stream), at, note, hear)
                }
                (_, None) => answer_http(stream, at, note, hear),
            }
        });
    }

    /// A listening socket of one of its machines, which stays where it was made.
    pub fn listen(&self, at: SocketAddr) -> TcpListener {
        thread::scope(|scope| {
            let made = scope.spawn(|| {
                enter(&self.namespace);
                TcpListener::bind(at).expect("a server's address")
            });
            made.join().expect("a socket there")
        })
    }

    /// Starts a program there.
    pub fn spawn(&self, mut command: Command) -> Child {
        thread::scope(|scope| {
            let started = scope.spawn(|| {
                enter(&self.namespace);
                command.spawn().expect("a program there")
            });
            started.join().expect("a process there")
        })
    }

    /// A key and a certificate for these names, as PEM.
    pub fn certificate(&self, names: &[&str]) -> String {
        let (key, leaf) = self.leaf(names);
        format!("{}{}", key.serialize_pem(), leaf.pem())
    }

    fn leaf(&self, names: &[&str]) -> (KeyPair, Certificate) {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).expect("names");
        let leaf = leaf.signed_by(&key, &self.authority).expect("a certificate");
        (key, leaf)
    }

    fn tls(&self, names: &[&str]) -> Arc<ServerConfig> {
        let (key, leaf) = self.leaf(names);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key);
        Arc::new(config.expect("a configuration"))
    }

    /// The resolver, over TCP alone or over TLS.
    fn resolve(&self, at: &str, tls: Option<Arc<ServerConfig>>) {
        let (zone, asked) = (self.zone.clone(), self.asked.clone());
        each(self.listen(at.parse().expect("an address")), move |stream| match &tls {
            None => answer_dns(stream, |question| resolved(question, &zone, &asked, true)),
            Some(config) => {
                let server = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                let stream = StreamOwned::new(server, stream);
                answer_dns(stream, |question| resolved(question, &zone, &asked, false))
            }
        });
    }
}

/// Answers each question of one connection.
fn answer_dns(mut stream: impl Read + Write, answer: impl Fn(&Message) -> Message) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut question)?;
        let question = Message::from_vec(&question).map_err(io::Error::other)?;
        let answer = answer(&question).to_vec().map_err(io::Error::other)?;
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?.to_be_bytes();
        stream.write_all(&[&length[..], &answer].concat())?;
        stream.flush()?;
    }
}

/// Moves this thread.
fn enter(network: &File) {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("moving there");
}

/// A process that waits in a network namespace of its own, until it is dropped.
struct Holder {
    child: Child,
}

impl Holder {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("it is there");
        Self { child }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn network(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.pid())).expect("its network")
    }

    /// Runs `ip` in it.
    fn ip(&self, words: &str) {
        let inside = format!("--net=/proc/{}/ns/net", self.pid());
        let ran = Command::new("nsenter").arg(inside).arg("ip").args(words.split(' ')).status();
        assert!(ran.expect("nsenter starts").success(), "ip {words}");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn resolved(
    question: &Message,
    zone: &Mutex<HashMap<String, Answer>>,
    asked: &Mutex<Vec<(String, bool)>>,
    clear: bool,
) -> Message {
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    let Some(query) = question.queries.first() else { return answer };
    let mut name = query.name().clone();
    lock(asked).push((plain(&name), clear));
    for _ in 0..8 {
        match lock(zone).get_mut(&plain(&name)) {
            None => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                break;
            }
            Some(Answer::Alias(other)) => {
                let other = Name::from_ascii(format!("{other}.")).expect("a name");
                let alias = RData::CNAME(rdata::CNAME(other.clone()));
                answer.add_answer(Record::from_rdata(name, 1, alias));
                name = other;
            }
            Some(Answer::Rebinding(turns)) => {
                let addresses = if turns.len() > 1 { turns.remove(0) } else { turns[0].clone() };
                for address in addresses {
                    let data = match (address, query.query_type()) {
                        (IpAddr::V4(address), RecordType::A) => RData::A(address.into()),
                        (IpAddr::V6(address), RecordType::AAAA) => RData::AAAA(address.into()),
                        _ => continue,
                    };
                    answer.add_answer(Record::from_rdata(name.clone(), 0, data));
                }
                break;
            }
        }
    }
    answer
}

fn plain(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_lowercase()
}

/// Serves every connection on a thread of its own, until the test ends.
fn each(listener: TcpListener, serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            // How a connection ends is the other side's business.
            thread::spawn(move || drop(serve(stream)));
        }
    });
}

/// Answers each request with who it is that answers, and what was asked.
fn answer_http(
    stream: impl Read + Write,
    at: SocketAddr,
    note: impl Fn(String),
    hear: impl Fn(Heard),
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                note(head.join(" | "));
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            head.push(line.to_owned());
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let host =
            head.iter().find(|line| line.to_lowercase().starts_with("host:")).cloned().unwrap_or_default();
        note(format!("{} {host}", head.first().map_or("", String::as_str)));
        let body = String::from_utf8_lossy(&body).into_owned();
        let first = head.first().map_or("", String::as_str);
        let (mut text, mut echo) = (format!("this is {at}, asked {first}\n"), String::new());
        if first.contains(" /echo") {
            (text, echo) =
                (format!("{}\n{body}\n", head.join("\n")), format!("X-Echo: {}\r\n", head.join(" | ")));
        }
        hear(Heard { at, head: head.clone(), body });
        let answer = format!("HTTP/1.1 200 OK\r\n{echo}Content-Length: {}\r\n\r\n{text}", text.len());
        stream.get_mut().write_all(answer.as_bytes())?;
        stream.get_mut().flush()?;
        if head.iter().any(|line| line.eq_ignore_ascii_case("connection: close")) {
            return Ok(());
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
