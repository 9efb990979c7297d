//! `image …`: root file systems that agents start from.

mod prune;
mod pull;

use super::service;
use crate::cli::Global;
use crate::failure::{self, fail, fail_with};
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::progress::Progress;
use crate::up::setup;
use crate::{context, resolve};
use anyhow::Context as _;
use clap::Subcommand;
use image::{BuildError, BuildOptions, ImportError, Imported, Limits, Source, Store, Worker};
use model::api::{GrantImage, Image, RegisterImage};
use model::packages::ImageDiff;
use model::{AccountId, Code, Name};
use std::path::PathBuf;

/// What `image` has.
#[derive(Subcommand)]
pub enum Command {
    Pull(pull::Pull),
    Build(Build),
    Import(Import),
    /// List images
    Ls,
    /// Remove from this machine's disk what no account and no agent uses
    ///
    /// Images that were forgotten (`image rm`), and downloaded layers that no image which is left was made of.
    Prune,
    /// Show what an image has installed other than another
    ///
    /// By name and version, as the databases of dpkg and apk in both said when they were made.
    Diff {
        /// Image that is there, by name or id; also an id that an agent was made of
        #[arg(value_parser = resolve::reference)]
        from: String,
        /// The other, by name or id
        #[arg(value_parser = resolve::reference)]
        to: String,
    },
    /// Let another account have an image; for operators
    Grant {
        /// Image, by name or id
        #[arg(value_parser = resolve::reference)]
        image: String,
        /// Id of the account; `cofferdam whoami` shows it to whoever has a key of it
        account: AccountId,
    },
    /// Forget images that no agent has any more
    ///
    /// `image prune` then makes room.
    Rm {
        /// Images, by name or id
        #[arg(required = true, value_parser = resolve::reference)]
        images: Vec<String>,
    },
}

/// Build an image from this machine's Debian packages
///
/// Takes a minute or two. Has a shell, Python, git and the usual tools; more with --package. Needs root, and the
/// machine's own apt sources.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam image build debian
  cofferdam image build debian --name build --package build-essential --package cmake")]
pub struct Build {
    /// Distribution
    #[arg(value_parser = ["debian"])]
    distribution: String,
    /// Name of the image
    #[arg(long, default_value = "debian")]
    name: Name,
    /// Package to add; may be repeated
    #[arg(long = "package", value_name = "PACKAGE")]
    packages: Vec<String>,
    /// Release, such as bookworm; the machine's own when absent
    #[arg(long)]
    suite: Option<String>,
}

/// Import an image from a file
///
/// A tar of a root file system, an OCI layout (as a tar or a folder), or what `docker save` wrote; plain, or packed with
/// gzip or zstd.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam image import rootfs.tar.zst --name mine
  docker save my/app:1 | cofferdam image import - --name app
  docker export some-container | cofferdam image import - --name mine")]
pub struct Import {
    /// The tar or folder; - is stdin
    file: PathBuf,
    /// Which image, where the file holds several
    #[arg(long)]
    tag: Option<String>,
    /// Name of the image
    #[arg(long)]
    name: Name,
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        match self {
            Self::Pull(args) => args.run(global).await,
            Self::Build(args) => {
                let options = BuildOptions { suite: args.suite, packages: args.packages };
                make("image build", args.name, global, move |store, worker, limits, progress| {
                    image::build(&options, store, worker, limits, progress).map_err(not_built)
                })
                .await
            }
            Self::Import(args) => {
                let file = if args.file.as_os_str() == "-" { PathBuf::from("/dev/stdin") } else { args.file };
                make("image import", args.name, global, move |store, worker, limits, progress| {
                    let source = Source::open(&file).map_err(not_imported)?;
                    image::import(source, args.tag.as_deref(), store, worker, limits, progress)
                        .map_err(not_imported)
                })
                .await
            }
            Self::Ls => list(global).await,
            Self::Rm { images } => remove(images, global).await,
            Self::Prune => prune::run(global).await,
            Self::Diff { from, to } => {
                let control = context::control(global.context.as_ref())?;
                differences(&control.diff_images(&from, &to).await?, global)?;
                Ok(0)
            }
            Self::Grant { image, account } => grant(&image, account, global).await,
        }
    }
}

/// What was asked for and cannot be had is no fault of Cofferdam.
fn not_built(error: BuildError) -> anyhow::Error {
    let code = match error {
        BuildError::NoPackage { .. } => Code::NotFound,
        BuildError::PackageName { .. } | BuildError::SuiteName { .. } | BuildError::NoSources { .. } => {
            Code::Validation
        }
        error => return error.into(),
    };
    fail(code, format!("{}.", failure::sentence(&error.to_string())))
}

/// What is the archive's fault is a fault of what was given, not of Cofferdam.
fn not_imported(error: ImportError) -> anyhow::Error {
    match error {
        ImportError::Refused(why) => fail(Code::Validation, why),
        ImportError::Open { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            fail(Code::NotFound, format!("There is no archive {}.", path.display()))
        }
        error => error.into(),
    }
}

type Make<T> =
    dyn FnOnce(&Store, &Worker, &Limits, &mut dyn FnMut(image::Progress)) -> anyhow::Result<T> + Send;

/// Makes an image into the store of this machine's node, and makes it known to control.
async fn make(
    command: &str,
    name: Name,
    global: &Global,
    make: impl FnOnce(&Store, &Worker, &Limits, &mut dyn FnMut(image::Progress)) -> anyhow::Result<Imported>
    + Send
    + 'static,
) -> anyhow::Result<u8> {
    let (image, imported) = keep(command, name, global, Box::new(make), |imported| imported).await?;
    match global.output {
        Format::Json => output::json(&image)?,
        Format::Table => output::line(format_args!(
            "Image {}: {}, {} files, sha256:{}",
            image.name,
            output::size(image.size),
            imported.entries,
            image.digest
        ))?,
    }
    Ok(0)
}

/// The same, for whoever says it in words of its own.
async fn keep<T: Send + 'static>(
    command: &str,
    name: Name,
    global: &Global,
    make: Box<Make<T>>,
    imported_of: impl FnOnce(&T) -> &Imported,
) -> anyhow::Result<(Image, T)> {
    setup::require_root(command)?;
    let paths = Paths::from_env()?;
    let config = service::node_config(&paths)?;
    let images = config.data.join("images");
    let limits = Limits { bytes: config.images.bytes.0, entries: config.images.files };
    // Before minutes are spent: the store lies on this machine, so control has to be this machine's too.
    let control = context::control(global.context.as_ref())?;
    let account = control.whoami().await?.account;
    if ![setup::local_url(&paths), setup::control_url(&paths)?].iter().any(|url| url == control.origin()) {
        return Err(fail_with(
            Code::Validation,
            format!("The image would be made on this machine, and the context is of {}.", control.origin()),
            "`cofferdam context use local`",
        ));
    }
    let progress = Progress::start(&format!("making the image {name}"));
    let (sender, mut stages) = tokio::sync::mpsc::unbounded_channel::<image::Progress>();
    let making = tokio::task::spawn_blocking(move || {
        let store = Store::open(&images)?;
        // Until control knows of it, nothing else speaks for the image.
        let held = store.hold()?;
        let worker = Worker::installed()?;
        let made = make(&store, &worker, &limits, &mut |progress| {
            let _ = sender.send(progress);
        })?;
        anyhow::Ok((made, held))
    });
    let mut said = String::new();
    while let Some(stage) = stages.recv().await {
        progress.percent(stage.percent);
        // Where there is no terminal a line for each stage is enough: not for each mebibyte.
        let words = stage.stage.split(" (").next().unwrap_or_default();
        if progress.is_terminal() {
            progress.stage(&stage.stage);
        } else if said != words {
            progress.stage(words);
            said = words.to_owned();
        }
    }
    let (made, held) = making.await.context("the image could not be made")??;
    progress.done();
    let imported = imported_of(&made);
    let digest = imported.digest.as_str();
    let voucher = node::vouch(&config, account, digest, imported.size)?;
    let request = RegisterImage {
        name,
        digest: digest.to_owned(),
        size: imported.size,
        config: imported.config.clone(),
        packages: imported.packages.clone(),
        voucher: Some(voucher),
    };
    let image = control.register_image(&request).await?;
    drop(held);
    Ok((image, made))
}

/// What differs, as a table or as it came.
pub fn differences(diff: &ImageDiff, global: &Global) -> anyhow::Result<()> {
    if global.output == Format::Json {
        return output::json(diff);
    }
    if let Some(why) = &diff.unknown {
        return output::line(format_args!("What differs is unknown: {why}."));
    }
    if diff.packages.is_empty() {
        return output::line("No package differs.");
    }
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".to_owned());
    let rows = diff.packages.iter().map(|it| [it.name.clone(), version(&it.from), version(&it.to)]);
    output::table(["PACKAGE", "IS", "WOULD BE"], rows)?;
    match diff.omitted {
        0 => Ok(()),
        more => output::line(format_args!("and {more} more")),
    }
}

async fn grant(image: &str, account: AccountId, global: &Global) -> anyhow::Result<u8> {
    let granted =
        context::control(global.context.as_ref())?.grant_image(image, &GrantImage { account }).await?;
    match global.output {
        Format::Json => output::json(&granted)?,
        Format::Table => output::line(format_args!("{account} has {} now.", granted.name))?,
    }
    Ok(0)
}

async fn list(global: &Global) -> anyhow::Result<u8> {
    let images = context::control(global.context.as_ref())?.images().await?;
    match global.output {
        Format::Json => output::json(&images)?,
        Format::Table => {
            let rows = images.iter().map(|image| {
                [
                    image.name.to_string(),
                    image.id.to_string(),
                    image.digest.chars().take(12).collect(),
                    output::size(image.size),
                    output::age(image.created_at),
                ]
            });
            output::table(["NAME", "ID", "DIGEST", "SIZE", "AGE"], rows)?;
        }
    }
    Ok(0)
}

async fn remove(images: Vec<String>, global: &Global) -> anyhow::Result<u8> {
    let control = context::control(global.context.as_ref())?;
    let mut first_failure = 0;
    for image in images {
        match control.remove_image(&image).await {
            Ok(()) if global.output == Format::Table => output::line(&image)?,
            Ok(()) => {}
            Err(error) => {
                let exit = failure::report(&error.into(), global.output == Format::Json);
                if first_failure == 0 {
                    first_failure = exit;
                }
            }
        }
    }
    Ok(first_failure)
}
