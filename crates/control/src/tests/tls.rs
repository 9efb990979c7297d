//! TLS at the door: what is shown, when it changes, and who gets in without it.

use super::world::World;
use crate::api;
use crate::server::{Bounds, Doors, Entry, listen, serve_some};
use crate::tls::{Tls, TlsError};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const NAME: &str = "control.example";

/// An authority, and files with what it issued.
pub(super) struct Issuer {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Issuer {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, directory: tempfile::tempdir().unwrap() }
    }

    pub(super) fn root(&self) -> String {
        self.issuer.pem()
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// A certificate and its key in PEM.
    pub(super) fn issue(&self) -> (String, String) {
        self.issue_for(NAME)
    }

    pub(super) fn issue_for(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Puts them in place as most programs do: each file by a rename, the certificate first.
    pub(super) fn install(&self, (certificate, key): &(String, String)) {
        replace(&self.certificate(), certificate, 0o644);
        replace(&self.key(), key, 0o600);
    }

    pub(super) fn open(&self) -> Result<Tls, TlsError> {
        Tls::open(self.certificate(), self.key())
    }

    pub(super) fn client(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

fn replace(path: &Path, text: &str, mode: u32) {
    let draft = path.with_extension("new");
    std::fs::write(&draft, text).unwrap();
    std::fs::set_permissions(&draft, PermissionsExt::from_mode(mode)).unwrap();
    std::fs::rename(draft, path).unwrap();
}

pub(super) struct Serving {
    address: SocketAddr,
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    pub(super) async fn start(world: &World, entry: Entry) -> Self {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, ending) = (listener.local_addr().unwrap(), CancellationToken::new());
        let doors = Doors::new(listener, entry, None).unwrap();
        let bounds = Bounds { places: 16, head: Duration::from_millis(500) };
        let task = tokio::spawn(serve_some(doors, api::router(world.app.clone()), ending.clone(), bounds));
        Self { address, ending, task }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) async fn connect(&self, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        client.connect(ServerName::try_from(NAME).unwrap(), stream).await
    }

    pub(super) async fn end(self) {
        self.ending.cancel();
        tokio::time::timeout(Duration::from_secs(8), self.task).await.unwrap().unwrap();
    }
}

/// Asks on a connection that is to go on, and tells the answer with its headers.
pub(super) async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> String {
    stream.write_all(b"GET /v1/healthz HTTP/1.1\r\nHost: 127.0.0.1:7700\r\n\r\n").await.unwrap();
    let mut said = String::new();
    while !said.contains("\"ok\"") {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        assert_ne!(read, 0, "the connection ended: {said}");
        said.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    said
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_nobody_is_cut_off() {
    let (world, issuer) = (World::new().await, Issuer::new());
    issuer.install(&issuer.issue());
    let serving = Serving::start(&world, Entry::Tls(Arc::new(issuer.open().unwrap()))).await;
    let client = issuer.client();
    let mut first = serving.connect(&client).await.unwrap();
    assert_eq!(first.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let said = ask(&mut first).await;
    assert!(said.contains("strict-transport-security: max-age="), "{said}");

    issuer.install(&issuer.issue());
    let mut second = serving.connect(&client).await.unwrap();
    assert_ne!(shown(&first), shown(&second));
    ask(&mut first).await;
    ask(&mut second).await;

    // What cannot be used changes nothing, and what is mended then is used.
    let (certificate, key) = issuer.issue();
    replace(&issuer.certificate(), "nonsense", 0o644);
    assert_eq!(shown(&serving.connect(&client).await.unwrap()), shown(&second));
    replace(&issuer.certificate(), &certificate, 0o644);
    assert_eq!(shown(&serving.connect(&client).await.unwrap()), shown(&second), "its key is not there yet");
    replace(&issuer.key(), &key, 0o644);
    assert_eq!(shown(&serving.connect(&client).await.unwrap()), shown(&second), "others can read its key");
    replace(&issuer.key(), &key, 0o640);
    let mut third = serving.connect(&client).await.unwrap();
    assert_ne!(shown(&third), shown(&second));
    std::fs::remove_file(issuer.key()).unwrap();
    assert_eq!(shown(&serving.connect(&client).await.unwrap()), shown(&third));
    for stream in [&mut first, &mut second, &mut third] {
        ask(stream).await;
    }
    serving.end().await;
}

#[tokio::test]
async fn without_tls_nothing_is_answered() {
    let (world, issuer) = (World::new().await, Issuer::new());
    issuer.install(&issuer.issue());
    let serving = Serving::start(&world, Entry::Tls(Arc::new(issuer.open().unwrap()))).await;
    let mut plain = TcpStream::connect(serving.address).await.unwrap();
    let ask = format!(
        "GET /v1/whoami HTTP/1.1\r\nHost: 127.0.0.1:7700\r\nAuthorization: Bearer {}\r\n\r\n",
        world.key
    );
    plain.write_all(ask.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said).await;
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/1.1"), "{said:?}");
    // One that never says hello is put out, and whoever knows another authority does not get through.
    let mut silent = TcpStream::connect(serving.address).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), silent.read(&mut [0; 16])).await;
    assert_eq!(ended.expect("put out").unwrap_or(0), 0);
    assert!(serving.connect(&Issuer::new().client()).await.is_err());
    // A handshake under way does not hold up the end.
    let _half = TcpStream::connect(serving.address).await.unwrap();
    serving.end().await;
}

#[test]
fn files_that_cannot_be_used_are_told_apart() {
    let issuer = Issuer::new();
    assert!(matches!(issuer.open(), Err(TlsError::Read { path, .. }) if path == issuer.certificate()));
    let (certificate, key) = issuer.issue();
    issuer.install(&(certificate.clone(), key.clone()));
    for bits in [0o600, 0o400, 0o640, 0o440] {
        replace(&issuer.key(), &key, bits);
        assert!(issuer.open().is_ok(), "{bits:o}");
    }
    for bits in [0o644, 0o660, 0o602, 0o604, 0o650, 0o601] {
        replace(&issuer.key(), &key, bits);
        let error = issuer.open().err().unwrap();
        assert!(matches!(&error, TlsError::Loose { path } if *path == issuer.key()), "{bits:o}: {error}");
    }
    replace(&issuer.key(), &issuer.issue().1, 0o600);
    assert!(matches!(issuer.open(), Err(TlsError::Unfit { .. })), "another's key");
    replace(&issuer.key(), &certificate, 0o600);
    assert!(matches!(issuer.open(), Err(TlsError::Content { what: "private key", .. })));
    replace(&issuer.key(), &key, 0o600);
    for text in ["", "nonsense", &key] {
        replace(&issuer.certificate(), text, 0o644);
        let error = issuer.open().err().unwrap();
        assert!(matches!(error, TlsError::Content { what: "certificate", .. }), "{error}");
        assert!(!error.to_string().contains("PRIVATE"), "{error}");
    }
}

#[test]
fn in_the_clear_only_this_machine_and_proxies_come_in() {
    let entry = Entry::Plain(vec!["10.0.0.0/8".parse().unwrap(), "fd00::1".parse().unwrap()]);
    for (peer, admitted) in [
        ("127.0.0.1", true),
        ("127.9.9.9", true),
        ("::1", true),
        ("::ffff:127.0.0.1", true),
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("fd00::1", true),
        ("fd00::2", false),
        ("11.0.0.1", false),
        ("192.168.1.1", false),
        ("2001:db8::1", false),
        ("::ffff:11.0.0.1", false),
    ] {
        assert_eq!(entry.admits(peer.parse::<IpAddr>().unwrap()), admitted, "{peer}");
    }
}
