//! `egress ask`: somebody who is there, and decides.

use crate::asking::{After, Asker, Manner, Watch, destination};
use crate::cli::Global;
use crate::keyboard::Keyboard;
use crate::output::{self, Columns, Format};
use crate::session::Signals;
use crate::{clean, context, resolve};
use client::Error;
use model::egress::OpenQuestion;
use std::io::IsTerminal;

const AFTER: &str = "\
A host that an agent's policy does not name, and holds, waits for two minutes while somebody looks after its questions: this command does, \
until Ctrl-C. On a terminal it asks; elsewhere, and with -o json, it prints questions (as JSON one document a line) and answers \
nothing: `cofferdam egress answer` does. `run`, `shell`, `exec` and `attach` ask by themselves where they have a terminal.

Answers are a letter or a word, and Enter: once, agent (it may from now on), always (so may every agent whose policy asks), deny.

Examples:
  cofferdam egress ask
  cofferdam egress ask worker -o json";

/// Look after questions of agents about hosts that their policies do not name
#[derive(clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    /// Agent, by name or id; without it, all
    #[arg(value_parser = resolve::reference)]
    agent: Option<String>,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let mut signals = Signals::listen()?;
        let watch = Watch::begin(&control, self.agent, lost).await?;
        let mut asker = Asker::new(control, watch);
        let keyboard = match global.output {
            Format::Table if std::io::stderr().is_terminal() => Keyboard::of_terminal(),
            _ => None,
        };
        tokio::select! {
            outcome = look_after(&mut asker, keyboard, global.output) => outcome?,
            _ = signals.ending() => eprintln!(),
        }
        Ok(0)
    }
}

/// Until there is nobody to ask.
async fn look_after(asker: &mut Asker, keyboard: Option<Keyboard>, format: Format) -> anyhow::Result<()> {
    let Some(mut keyboard) = keyboard else { return list(asker, format).await };
    eprintln!("cofferdam: looking after questions; Ctrl-C ends that");
    loop {
        let question = asker.next().await?;
        let manner = Manner { raw: false, shared: false };
        match asker.ask(&question, manner, &mut keyboard, std::future::pending()).await? {
            After::Next => {}
            After::Stop | After::Interrupted => return Ok(()),
        }
    }
}

/// Prints each, and decides nothing.
async fn list(asker: &mut Asker, format: Format) -> anyhow::Result<()> {
    let mut columns = Columns::new(["QUESTION", "AGENT", "HOST:PORT", "WAITS UNTIL"]);
    loop {
        let question = asker.next().await?;
        asker.settle(question.id);
        match format {
            Format::Json => output::json_line(&question)?,
            Format::Table => columns.print(vec![row(&question)])?,
        }
    }
}

fn row(question: &OpenQuestion) -> [String; 4] {
    let (id, name) = (question.id.to_string(), question.name.to_string());
    [id, name, destination(question), output::time(question.until)]
}

fn lost(error: &Error) {
    eprintln!("cofferdam: {}; trying again", clean::text(&error.to_string()));
}
