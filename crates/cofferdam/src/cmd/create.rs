//! `create`: makes an agent.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::policies::{self, Destination};
use crate::progress::Progress;
use crate::recipes::{Limits, Recipe};
use crate::{confirm, context, resolve};
use model::agent::{Command, Level, RunAs};
use model::api::{Agent, CreateAgent};
use model::policy::{Action, Policy};
use model::secret::SecretUse;
use model::{ByteSize, Driver, Name, Resources, Span};
use std::path::PathBuf;

/// What `create` and `run` share: everything that is fixed when an agent is made.
#[derive(clap::Args)]
pub struct Spec {
    /// Image, by name or id; without one the installation's default
    #[arg(long, value_parser = resolve::reference, value_name = "IMAGE")]
    pub image: Option<String>,
    /// How it is isolated: container (2), process (1) or workspace (0); by default the strongest of 2 and 1 that can be made
    #[arg(long, value_parser = resolve::level, value_name = "LEVEL")]
    pub level: Option<Level>,
    /// Who makes its boundary: builtin; runc or runsc (level 2, where the node allows it); systemd (level 1, where it runs the machine)
    #[arg(long, value_parser = resolve::driver, value_name = "DRIVER")]
    pub driver: Option<Driver>,
    /// Let no policy limit it; asks for the word `unrestricted`, for it may then do what it likes with what it reaches
    #[arg(long)]
    pub unrestricted: bool,
    /// Answer the question of --unrestricted, for scripts
    #[arg(long, requires = "unrestricted")]
    pub yes: bool,
    /// Policy file: what may leave it; by default APIs of models and Git hosts (see docs/guides/egress.md); - is stdin
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Host that it may reach besides, at 443 and 80 unless a port is named; may be repeated
    #[arg(long, value_name = "HOST[:PORT]", value_parser = policies::destination)]
    pub allow: Vec<Destination>,
    /// Let nothing leave it
    #[arg(long, conflicts_with_all = ["policy", "allow"])]
    pub no_network: bool,
    /// Name of the agent; made up when absent
    #[arg(long)]
    pub name: Option<Name>,
    /// Label, to find it by; may be repeated
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = resolve::label)]
    pub labels: Vec<(String, String)>,
    /// Environment of everything in it; KEY alone takes the value from here; may be repeated
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE", value_parser = resolve::env_setting)]
    pub env: Vec<(String, String)>,
    /// Secret to have as a variable in the environment of everything in it; may be repeated
    #[arg(long = "secret", value_name = "ENV=SECRET", value_parser = resolve::secret)]
    pub secrets: Vec<(String, Name)>,
    /// Secret to have as a file in /run/secrets, which is in memory; may be repeated
    #[arg(long = "secret-file", value_name = "FILE=SECRET", value_parser = resolve::secret)]
    pub secret_files: Vec<(String, Name)>,
    /// Processor cores [default: 1]
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub cpus: Option<f64>,
    /// Memory, everything counted [default: 1GiB]
    #[arg(long, allow_negative_numbers = true, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Disk: home and scratch together [default: 5GiB]
    #[arg(long, allow_negative_numbers = true, value_name = "SIZE")]
    pub disk: Option<ByteSize>,
    /// Processes and threads [default: 512]
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub pids: Option<u32>,
    /// Destroy it this long after its creation (90s, 30m, 2h, 7d)
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<Span>,
    /// Stop it after this long without use
    #[arg(long, value_name = "TIME")]
    pub idle_timeout: Option<Span>,
    /// Keep changes outside of the home directory over a stop
    #[arg(long)]
    pub keep_scratch: bool,
    /// Run as root inside (nobody outside); the same as -u root
    #[arg(long, conflicts_with = "user")]
    pub root: bool,
    /// Program to run in place of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// User inside: agent or root; by default the image's own
    #[arg(short = 'u', long, value_parser = resolve::user, value_name = "USER")]
    pub user: Option<RunAs>,
    /// Working directory of the command
    #[arg(short = 'w', long = "workdir", value_name = "DIR")]
    pub workdir: Option<String>,
    /// What may leave it by a recipe.
    #[arg(skip)]
    usual: Option<Policy>,
    /// What it is given by a recipe.
    #[arg(skip)]
    given: Vec<SecretUse>,
}

impl Spec {
    /// Takes from a recipe what was not said otherwise.
    pub fn adopt(&mut self, recipe: &Recipe) {
        let Limits { cpus, memory, pids, disk } = recipe.resources;
        self.cpus = self.cpus.or(cpus);
        self.memory = self.memory.or(memory);
        self.pids = self.pids.or(pids);
        self.disk = self.disk.or(disk);
        self.level = self.level.or(recipe.level);
        self.image = self.image.take().or_else(|| recipe.image.clone());
        self.user = self.user.or(recipe.user);
        let env = recipe.env.iter().map(|(name, value)| (name.clone(), value.clone()));
        // What was said comes last, and so it counts.
        self.env.splice(..0, env);
        self.given.extend(recipe.secrets.iter().cloned());
        self.usual = Some(recipe.policy.clone());
    }

    /// Asks whoever wants an agent without limits to say so in full.
    pub fn confirm(&self) -> anyhow::Result<()> {
        if !self.unrestricted || self.yes {
            return Ok(());
        }
        confirm::word(
            "unrestricted",
            "An unrestricted agent is limited by no policy: what it reaches, it may use, change and send away.\n\
             Give it a node that holds nothing else, and secrets that can be lost.",
        )
    }

    /// The request. `argv` is the main process where there is to be one; empty means the image's own command.
    pub fn request(self, argv: Option<Vec<String>>) -> anyhow::Result<CreateAgent> {
        let (policy, usual) = (self.policy()?, Resources::default());
        let variables =
            self.secrets.into_iter().map(|(env, secret)| SecretUse { secret, env: Some(env), file: None });
        let files = self.secret_files.into_iter().map(|(file, secret)| SecretUse {
            secret,
            env: None,
            file: Some(file),
        });
        let secrets = self.given.into_iter().chain(variables).chain(files).collect();
        let main =
            argv.map(|argv| Command { argv, env: Default::default(), cwd: self.workdir.clone(), user: None });
        let entrypoint =
            self.entrypoint.map(|program| [program].into_iter().filter(|p| !p.is_empty()).collect());
        Ok(CreateAgent {
            secrets,
            name: self.name,
            image: self.image,
            level: self.level,
            driver: self.driver,
            unrestricted: self.unrestricted,
            policy,
            main,
            entrypoint,
            env: resolve::map(self.env),
            labels: resolve::map(self.labels),
            run_as: if self.root { Some(RunAs::Root) } else { self.user },
            resources: Resources {
                cpus: self.cpus.unwrap_or(usual.cpus),
                memory: self.memory.unwrap_or(usual.memory),
                pids: self.pids.unwrap_or(usual.pids),
                disk: self.disk.unwrap_or(usual.disk),
            },
            keep_scratch: self.keep_scratch,
            ttl: self.ttl,
            idle_timeout: self.idle_timeout,
            token: None,
        })
    }

    /// What may leave it; `None` leaves it to control.
    fn policy(&self) -> anyhow::Result<Option<Policy>> {
        let mut policy = match (&self.policy, &self.usual) {
            (Some(file), _) => policies::read(file)?,
            (None, _) if self.no_network => Policy::nothing(),
            (None, Some(usual)) => usual.clone(),
            (None, None) if self.allow.is_empty() => return Ok(None),
            (None, None) => Policy::default_of(self.unrestricted),
        };
        policy.egress.rules.extend(self.allow.iter().map(|host| host.rule(Action::Allow)));
        policies::check(&policy, self.unrestricted)?;
        Ok(Some(policy))
    }
}

const AFTER: &str = "\
Without a command the agent is a place to exec in. With one, or with --start, the command is its main process: \
the agent stops when that ends, and `logs` shows what it wrote. Where the image has an entrypoint, the command is \
its arguments.

Examples:
  cofferdam create --name worker
  cofferdam create --name builder --policy builder.toml --allow git.example.com:22
  cofferdam create --name deployer --secret DEPLOY_KEY=deploy-key --secret-file tls.pem=tls-key
  cofferdam create --name web --memory 256MiB --ttl 1h -- python3 -m http.server 8000";

/// Make an agent, and print its id
#[derive(clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    #[command(flatten)]
    spec: Spec,
    /// Do not wait until it runs
    #[arg(long)]
    no_wait: bool,
    /// Make the image's own command the main process
    #[arg(long)]
    start: bool,
    /// Main process
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        self.spec.confirm()?;
        let control = context::control(global.context.as_ref())?;
        let progress = Progress::brief("creating the agent");
        let main = Some(self.command).filter(|command| self.start || !command.is_empty());
        let mut agent = control.create_agent(&self.spec.request(main)?).await?;
        if !self.no_wait {
            progress.stage(&format!("starting {}", agent.name));
            agent = control.wait_agent(&agent.id.to_string(), "settled", resolve::SETTLE_SECONDS).await?;
        }
        progress.done();
        print(&agent, global)?;
        // A main process may have ended already, well or not: that is for `show` to say.
        if !self.no_wait && agent.state == model::AgentState::Failed {
            resolve::running(&agent)?;
        }
        Ok(0)
    }
}

/// Prints what was made: its id, or all of it.
pub fn print(agent: &Agent, global: &Global) -> anyhow::Result<()> {
    output::warnings([agent]);
    match global.output {
        Format::Json => output::json(agent),
        Format::Table => output::line(agent.id),
    }
}
