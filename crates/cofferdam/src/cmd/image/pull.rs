//! `image pull`: an image from a registry.

use crate::cli::Global;
use crate::cmd::service;
use crate::credentials;
use crate::failure::{self, fail, fail_with};
use crate::output::{self, Format};
use crate::paths::Paths;
use anyhow::Context as _;
use image::{Authority, Host, PublicKey, PullError, PullOptions, Pulled, Reference, Rules, Signer};
use model::{Code, Name};
use serde::Serialize;
use std::path::Path;

/// Pull an image from a registry
///
/// Credentials are those that `docker login` keeps. A registry at a private address, or one without TLS, has to be named
/// in node.toml. What was downloaded before a cut is not downloaded again.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam image pull registry.example/team/app:1.2
  cofferdam image pull registry.example/team/app@sha256:9f86… --name app")]
pub struct Pull {
    /// HOST/REPOSITORY:TAG, or HOST/REPOSITORY@sha256:DIGEST for one that cannot change
    reference: String,
    /// Name of the image here; the last part of the repository when absent
    #[arg(long)]
    name: Option<Name>,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    image: model::api::Image,
    /// What a pin names.
    pin: String,
    /// Bytes of layers that had to be downloaded.
    downloaded: u64,
}

impl Pull {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let reference: Reference = self
            .reference
            .parse()
            .map_err(|error: image::ReferenceError| fail(Code::Validation, format!("{error}.")))?;
        let name = match self.name {
            Some(name) => name,
            None => name_of(&reference)?,
        };
        let config = service::node_config(&Paths::from_env()?)?.registry;
        let hosts = |texts: &[String]| -> anyhow::Result<Vec<Host>> {
            texts.iter().map(|text| text.parse().context("node.toml names a registry that is none")).collect()
        };
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}, which node.toml names", path.display()))
        };
        let key = |path: &Path| -> anyhow::Result<PublicKey> {
            read(path)?.parse().with_context(|| format!("{} cannot be used", path.display()))
        };
        let signer = |path: &Path| -> anyhow::Result<Signer> {
            let certificates = read(path)?;
            if !certificates.contains("-----BEGIN CERTIFICATE-----") {
                if !config.signed_as.is_empty()
                    || config.signed_issuer.is_some()
                    || config.signed_log.is_some()
                {
                    anyhow::bail!(
                        "registry.signed_as, signed_issuer and signed_log of node.toml are about certificates, and {} holds a key",
                        path.display()
                    );
                }
                return key(path).map(Signer::Key);
            }
            let log = config.signed_log.as_deref().map(key).transpose()?;
            let (names, issuer) = (config.signed_as.clone(), config.signed_issuer.clone());
            let authority = Authority::new(&certificates, names, issuer, log);
            let authority = authority.with_context(|| format!("{} cannot be used", path.display()))?;
            Ok(Signer::Authority(Box::new(authority)))
        };
        let options = PullOptions {
            credentials: credentials::find(&reference.registry)?,
            rules: Rules {
                open: hosts(&config.open)?,
                plain: hosts(&config.plain)?,
                authorities: config.ca.as_deref().map(read).transpose()?,
            },
            signed_by: config.signed_by.as_deref().map(signer).transpose()?,
            reference,
        };
        let pinned = Reference { tag: None, digest: None, ..options.reference.clone() };
        let pull =
            Box::new(move |store: &_, worker: &_, limits: &_, progress: &mut dyn FnMut(image::Progress)| {
                image::pull(&options, store, worker, limits, progress).map_err(not_pulled)
            });
        let (image, pulled) =
            super::keep("image pull", name, global, pull, |pulled: &Pulled| &pulled.image).await?;
        let pin = Reference { digest: Some(pulled.digest), ..pinned }.to_string();
        match global.output {
            Format::Json => output::json(&Shown { image, pin, downloaded: pulled.downloaded })?,
            Format::Table => {
                output::line(format_args!(
                    "Image {}: {}, {} files, {} downloaded, sha256:{}",
                    image.name,
                    output::size(image.size),
                    pulled.image.entries,
                    output::size(pulled.downloaded),
                    image.digest
                ))?;
                output::line(format_args!("Pulled {pin}"))?;
            }
        }
        Ok(0)
    }
}

fn name_of(reference: &Reference) -> anyhow::Result<Name> {
    let last = reference.repository.rsplit('/').next().unwrap_or_default();
    last.replace(['.', '_'], "-").parse().map_err(|_| {
        fail_with(Code::Validation, format!("An image here cannot be called {last}."), "say how with --name")
    })
}

fn not_pulled(error: PullError) -> anyhow::Error {
    let sentence = |text: String| format!("{}.", failure::sentence(&text));
    match error {
        PullError::Denied(why) => fail_with(
            Code::Forbidden,
            sentence(why),
            "`docker login` keeps credentials for a registry; they are read from ~/.docker/config.json",
        ),
        PullError::Missing(why) => {
            fail_with(Code::NotFound, sentence(why), "check the repository and the tag")
        }
        PullError::Refused(why) => fail(Code::Validation, sentence(why)),
        PullError::Unavailable(why) => fail_with(
            Code::Unavailable,
            sentence(why),
            "check the registry's name and this machine's way to it; a pull goes on where one was cut",
        ),
        PullError::Signature(error) => fail_with(
            Code::NotSigned,
            sentence(error.to_string()),
            "have the image signed with that key (`cosign sign --key`), or pull one that is",
        ),
        error @ PullError::Lied { .. } => fail(Code::Validation, sentence(error.to_string())),
        PullError::Import(error) => super::not_imported(error),
    }
}
