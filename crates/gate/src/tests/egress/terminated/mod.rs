//! TLS that is looked into: an agent that trusts its own authority alone, servers that a known authority signed or not, and
//! credentials that the agent never has.

mod attacks;
mod credentials;
mod echoes;
mod hostile;
mod placeholders;
mod requests;
mod servers;
mod streams;
mod taken;

use super::world::*;
use model::gate_api::{Authority, Credential, ToGate};
use model::policy::Policy;
use model::secret::SecretValue;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

pub const NAME: &str = "api.example.com";
pub const VALUE: &str = "sk-s3cr3t/value+0123456789";
pub const PLACEHOLDER: &str = "cofferdam-placeholder-abcdefghijklmnopqrstuvwxyz234567";
pub const ANOTHER: &str = "cofferdam-placeholder-7654321zyxwvutsrqponmlkjihgfedcb";

/// Somebody who signs certificates.
pub struct Signer(CertifiedIssuer<'static, KeyPair>);

impl Signer {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For a gate.
    pub fn authority(&self) -> Authority {
        let key = SecretValue::new(self.0.key().serialize_pem());
        Authority { certificate: self.pem(), key }
    }

    /// What a server shows for these names.
    pub fn server(
        &self,
        names: &[&str],
        alpn: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> TlsAcceptor {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let pair = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&pair, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// What a client has that trusts nobody else.
    pub fn client(&self, alpn: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.0.der().to_vec())).unwrap();
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

/// An agent whose TLS is looked into.
pub struct Terminated {
    pub world: World,
    /// Who signs servers.
    pub known: Signer,
    /// Whom the agent trusts.
    pub own: Signer,
}

/// A policy that allows a host, with these credentials.
pub fn injecting(inject: Value) -> Policy {
    with_rules(json!([{"action": "allow", "host": "*.example.com"}]), inject)
}

pub fn with_rules(rules: Value, inject: Value) -> Policy {
    let policy: Policy =
        serde_json::from_value(json!({"version": 1, "egress": {"rule": rules, "inject": inject}})).unwrap();
    policy.validate(false).unwrap();
    policy
}

/// One credential, as a bearer token.
pub fn bearer() -> Policy {
    injecting(json!([{"secret": "one", "host": NAME, "bearer": true}]))
}

pub fn credential(secret: &str, value: &str, placeholder: &str) -> Credential {
    let value = SecretValue::new(value.to_owned());
    Credential { secret: secret.parse().unwrap(), value, placeholder: placeholder.to_owned() }
}

impl Terminated {
    /// With one credential.
    pub async fn new(policy: Policy) -> Self {
        Self::with(policy, Some(vec![credential("one", VALUE, PLACEHOLDER)])).await
    }

    pub async fn with(policy: Policy, credentials: Option<Vec<Credential>>) -> Self {
        let mut world = World::with(settings(), None, &[]).await;
        let (known, own) = (Signer::new("known"), Signer::new("own"));
        world.authority = Some(own.authority());
        world.tell(&ToGate::Roots { pem: known.pem() }).await;
        let mut new = Self { world, known, own };
        if let Some(credentials) = credentials {
            new.credentials(credentials).await;
        }
        // What is said before is in force once this is.
        new.world.set(Some(policy)).await;
        new
    }

    pub async fn credentials(&mut self, credentials: Vec<Credential>) {
        let agent = self.world.agent;
        self.world.tell(&ToGate::Credentials { agent, credentials }).await;
    }

    /// The server of a name.
    pub async fn host(&self, name: &str) -> Server {
        let acceptor = self.known.server(&[name], &["http/1.1"], |_| ());
        Server { listener: self.world.host(name, 443).await, acceptor }
    }

    /// A client that is connected to a name.
    pub async fn client(&self, name: &'static str) -> client::TlsStream<TcpStream> {
        self.shake(name, self.own.client(&["http/1.1"])).await.unwrap()
    }

    pub async fn shake(
        &self,
        name: &'static str,
        config: ClientConfig,
    ) -> std::io::Result<client::TlsStream<TcpStream>> {
        let stream = self.world.client_soon(name, 443).await;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), stream).await
    }

    /// Sends this to the server, and hears what it hears; then it answers, and this is what the client hears.
    pub async fn exchange(&self, request: &str, answer: &str) -> (String, String) {
        let server = self.host(NAME).await;
        let (mut client, mut upstream) = self.both(&server).await;
        client.write_all(request.as_bytes()).await.unwrap();
        let heard = message(&mut upstream).await;
        upstream.write_all(answer.as_bytes()).await.unwrap();
        (heard, message(&mut client).await)
    }

    /// Both ends of a new connection.
    pub async fn both(
        &self,
        server: &Server,
    ) -> (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>) {
        tokio::join!(self.client(NAME), server.accept())
    }

    /// Both ends of a WebSocket.
    pub async fn web_socket(
        &self,
        server: &Server,
    ) -> (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>) {
        let (mut client, mut upstream) = self.both(server).await;
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        client.write_all(get("/ws", upgrade).as_bytes()).await.unwrap();
        message(&mut upstream).await;
        let switching =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        upstream.write_all(switching.as_bytes()).await.unwrap();
        assert_eq!(head(&mut client).await, switching);
        (client, upstream)
    }

    /// Sends this, and the status of the problem that comes, and what it says. No server hears any of it.
    pub async fn refused(&self, request: &str) -> (u16, model::Problem) {
        let server = self.host(NAME).await;
        let (mut client, mut upstream) = self.both(&server).await;
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = message(&mut client).await;
        let problem = problem(&answer);
        drop(client);
        assert_eq!(ending(&mut upstream).await, "", "{request}");
        problem
    }
}

/// A server of TLS.
pub struct Server {
    pub listener: TcpListener,
    pub acceptor: TlsAcceptor,
}

impl Server {
    pub async fn accept(&self) -> server::TlsStream<TcpStream> {
        self.acceptor.accept(accept(&self.listener).await).await.unwrap()
    }
}

/// The problem of an answer, with its status.
pub fn problem(answer: &str) -> (u16, model::Problem) {
    assert!(answer.contains("content-type: application/problem+json"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// Reads a head.
pub async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(in_time(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Reads a head, and a body whose length it says or that is chunked.
pub async fn message(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut message = head(stream).await;
    let small = message.to_lowercase();
    let length = small.lines().find_map(|line| line.strip_prefix("content-length: "));
    if small.contains("transfer-encoding: chunked") {
        while !message.ends_with("\r\n0\r\n\r\n") && !message.ends_with("\r\n\r\n0\r\n\r\n") {
            message.push(char::from(in_time(stream.read_u8()).await.unwrap()));
        }
    } else if let Some(length) = length {
        let mut body = vec![0; length.parse().unwrap()];
        in_time(stream.read_exact(&mut body)).await.unwrap();
        message.push_str(&String::from_utf8(body).unwrap());
    }
    message
}

/// All that comes, to the end, however that comes.
pub async fn ending(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = in_time(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), future).await.expect("nothing came")
}

pub fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\n{headers}\r\n")
}

pub fn post(path: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// A short frame of a client of WebSocket, of this first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap()];
    assert!(payload.len() < 126);
    frame.extend(key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
