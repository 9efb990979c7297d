//! Certificates from a real authority: Pebble, with a name server that leads all names to this machine.

use super::tls::{Issuer, Serving};
use super::world::World;
use crate::acme::{self, Files};
use crate::config::Acme;
use crate::server::Entry;
use crate::tls::{CHALLENGE, Tls};
use model::clock::{Clock, SystemClock};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const NAME: &str = "control.example";

/// A program that ends with its test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(quiet.spawn().expect("pebble and pebble-challtestsrv: `cargo xtask setup` installs them"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An authority that looks for names at a port of this machine.
struct Authority {
    settings: Acme,
    management: u16,
    names: u16,
    issuer: Issuer,
    _programs: [Running; 2],
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Authority {
    async fn start(validates: u16) -> Self {
        let issuer = Issuer::new();
        issuer.install(&issuer.issue_for("127.0.0.1"));
        let [port, management, dns, names] = std::array::from_fn(|_| free_port());
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": issuer.certificate(), "privateKey": issuer.key(),
            "httpPort": 1, "tlsPort": validates,
        }});
        let directory = issuer.directory();
        let file = directory.join("pebble.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let roots = directory.join("roots.pem");
        std::fs::write(&roots, issuer.root()).unwrap();
        let mut server = Command::new("pebble-challtestsrv");
        server.args(["-dns01", &format!("127.0.0.1:{dns}"), "-management", &format!("127.0.0.1:{names}")]);
        server.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(file).args(["-dnsserver", &format!("127.0.0.1:{dns}")]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        let programs = [Running::start(&mut server), Running::start(&mut pebble)];
        for port in [port, management, names] {
            eventually("it listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        }
        let settings = Acme {
            names: vec![NAME.to_owned()],
            agree: true,
            contact: Some("owner@control.example".to_owned()),
            directory: format!("https://127.0.0.1:{port}/dir"),
            roots: Some(roots),
        };
        Self { settings, management, names, issuer, _programs: programs }
    }

    /// The authority under which it issues, which is another each time that it starts.
    async fn root(&self) -> CertificateDer<'static> {
        let request = "GET /roots/0 HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n";
        let stream = TcpStream::connect(("127.0.0.1", self.management)).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let own = CertificateDer::from_pem_slice(self.issuer.root().as_bytes()).unwrap();
        let mut stream = trusting(own, b"http/1.1").connect(name, stream).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        CertificateDer::from_pem_slice(answer.as_bytes()).unwrap()
    }

    /// From now on the name leads to an address where nobody listens.
    async fn lead_away(&self, name: &str) {
        let body = serde_json::json!({"host": name, "addresses": ["127.0.0.99"]}).to_string();
        let request = format!("POST /add-a HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut stream = TcpStream::connect(("127.0.0.1", self.names)).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
    }
}

fn trusting(root: CertificateDer<'static>, protocol: &[u8]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not in 30 seconds: {what}");
}

#[tokio::test]
async fn a_certificate_is_obtained_on_the_same_port_and_kept() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path().join("acme"));
    let tls = Arc::new(Tls::expect(files.certificate(), files.key()));
    let serving = Serving::start(&world, Entry::Tls(tls.clone())).await;
    let authority = Authority::start(serving.address().port()).await;
    let client = trusting(authority.root().await, b"http/1.1");
    assert!(serving.connect(&client).await.is_err(), "there is none yet");

    let ending = CancellationToken::new();
    let keeping = |settings: &Acme| {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        tokio::spawn(acme::keep(settings.clone(), files.clone(), tls.clone(), clock, ending.child_token()))
    };
    let keeper = keeping(&authority.settings);
    eventually("control shows its certificate", async || serving.connect(&client).await.is_ok()).await;
    super::tls::ask(&mut serving.connect(&client).await.unwrap()).await;
    for file in ["account.json", "key.pem", "certificate.pem"] {
        let metadata = std::fs::metadata(directory.path().join("acme").join(file)).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777, 0o600, "{file}");
    }
    keeper.abort();

    // A start later there is nothing to ask for; with another name there is, and what was had goes on when it is not proved.
    let before = std::fs::read(files.certificate()).unwrap();
    let keeper = keeping(&authority.settings);
    authority.lead_away("elsewhere.example").await;
    let elsewhere = Acme { names: vec!["elsewhere.example".into()], ..authority.settings.clone() };
    let error = acme::attempt(&elsewhere, &files, &tls).await.unwrap_err();
    assert!(error.to_string().contains("elsewhere.example"), "{error}");
    assert_eq!(std::fs::read(files.certificate()).unwrap(), before);
    assert!(serving.connect(&client).await.is_ok());
    keeper.abort();

    let both = Acme { names: vec![NAME.into(), "second.example".into()], ..authority.settings.clone() };
    assert!(acme::due(&files.certificate(), &both.names).is_none(), "it is for one name");
    acme::attempt(&both, &files, &tls).await.unwrap();
    let due = acme::due(&files.certificate(), &both.names).unwrap();
    assert!(due > SystemClock.now() + time::Duration::days(1), "{due}");
    assert!(acme::due(Path::new("/dev/null"), &both.names).is_none());
    serving.end().await;
}

/// Who asks for the proof of a name gets it, and nothing else.
#[tokio::test]
async fn a_proof_is_no_way_in() {
    let world = World::new().await;
    let issuer = Issuer::new();
    let pair = issuer.issue();
    issuer.install(&pair);
    let tls = Arc::new(issuer.open().unwrap());
    let serving = Serving::start(&world, Entry::Tls(tls.clone())).await;
    let prover = trusting(CertificateDer::from_pem_slice(issuer.root().as_bytes()).unwrap(), CHALLENGE);
    assert!(serving.connect(&prover).await.is_err(), "nothing is being proved");
    let certificate = CertificateDer::from_pem_slice(pair.0.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.1.as_bytes()).unwrap();
    tls.prove(NAME.to_owned(), crate::tls::prover(certificate, key).unwrap());
    let mut stream = serving.connect(&prover).await.unwrap();
    let request = b"GET /v1/healthz HTTP/1.1\r\nHost: 127.0.0.1:7700\r\n\r\n";
    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert!(serving.connect(&issuer.client()).await.is_ok(), "others are served meanwhile");
    tls.prove_nothing();
    assert!(serving.connect(&prover).await.is_err());
    serving.end().await;
}
