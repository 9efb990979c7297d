//! The connection onwards: the server has to show a certificate for the name that a known authority signed, whatever the policy says.

use super::super::Context;
use super::super::flow::Flow;
use super::super::http::{self, Ends, Link};
use super::super::upstream;
use super::super::wire::Wire;
use super::{Version, unverified};
use crate::limits;
use hyper_util::rt::TokioIo;
use model::{Code, Problem};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How servers are verified.
pub struct Verifying(TlsConnector);

impl Verifying {
    /// By these authorities, if there are any.
    pub fn new(provider: &Arc<CryptoProvider>, pem: &str) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        let (good, bad) = roots.add_parsable_certificates(certificates);
        if bad > 0 {
            tracing::warn!(good, bad, "some authorities that servers are verified by cannot be read");
        }
        let config = ClientConfig::builder_with_provider(provider.clone());
        let mut config = config
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Agents have nothing in common that a server could tell by, and nothing of their conversations is kept.
        config.resumption = Resumption::disabled();
        (good > 0).then(|| Self(TlsConnector::from(Arc::new(config))))
    }
}

impl Verifying {
    /// Begins TLS.
    pub async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        name: ServerName<'static>,
        alpn: Vec<Vec<u8>>,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        self.0.with_alpn(alpn).connect(name, stream).await
    }
}

/// What a client offers of that which is spoken here, in its order. HTTP/1.1 without a word.
pub fn offered<'a>(alpn: Option<impl Iterator<Item = &'a [u8]>>) -> Vec<Version> {
    let Some(alpn) = alpn else { return vec![Version::One] };
    alpn.filter_map(|offer| Version::ALL.into_iter().find(|version| version.alpn() == offer)).collect()
}

/// Connects to where the flow goes, and agrees on one of these; otherwise what the client is told.
pub async fn connect(
    context: &Arc<Context>,
    flow: &Arc<Flow>,
    name: &str,
    offered: &[Version],
    stream: Option<TcpStream>,
    ends: &Ends,
) -> Result<(Version, Link), Problem> {
    let Some(verifying) = context.tls.verifying() else {
        let detail = "No authorities are known by which a server could be verified.";
        flow.failed(detail.to_owned());
        return Err(Problem::new(Code::Unavailable, detail)
            .remedy("Whoever runs the machine can install them, such as by the package ca-certificates."));
    };
    let stream = match stream {
        Some(stream) => stream,
        None => upstream::connect(context, flow).await.map_err(|error| {
            flow.failed(error.to_string());
            http::unreachable(&error)
        })?,
    };
    // One after the other, and small ones should not wait.
    let _ = stream.set_nodelay(true);
    let fail = |why: &str| {
        flow.failed(format!("the server {why}"));
        unverified(name, why)
    };
    let host =
        ServerName::try_from(name.to_owned()).map_err(|_| fail("has a name that no certificate is for"))?;
    let wire = Wire::upstream(Arc::new(stream), flow.clone());
    let alpn = offered.iter().map(|version| version.alpn().to_vec()).collect();
    let server = match timeout(limits::HANDSHAKE_TIME, verifying.shake(host, alpn, wire)).await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => return Err(fail(words(&error))),
        Err(_) => return Err(fail("did not answer to TLS in time")),
    };
    let chosen = server.get_ref().1.alpn_protocol();
    let version = match chosen {
        Some(chosen) => offered.iter().copied().find(|version| version.alpn() == chosen),
        None => Some(Version::One).filter(|version| offered.contains(version)),
    };
    let Some(version) = version else { return Err(fail("does not speak the same version of HTTP")) };
    let link = match version {
        Version::One => Link::one(TokioIo::new(server), ends).await,
        Version::Two => Link::two(TokioIo::new(server), ends).await,
    };
    Ok((version, link.map_err(|_| http::silent())?))
}

/// What is wrong with a server.
pub fn words(error: &io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(error)) = inner else {
        return if inner.is_some() { "does not speak TLS as it should" } else { "broke off its TLS" };
    };
    match error {
        CertificateError::UnknownIssuer => "has a certificate that no known authority signed",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "has a certificate for another name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has a certificate that expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "has a certificate that is not valid yet"
        }
        CertificateError::Revoked => "has a certificate that was revoked",
        _ => "has a certificate that is not valid",
    }
}
