//! `egress answer`: decides a question from anywhere.

use crate::asking::{self, decision};
use crate::cli::Global;
use crate::output::{self, Format};
use crate::{clean, context};
use model::QuestionId;
use model::egress::Decision;

/// Decide a question that `egress ask` shows
#[derive(clap::Args)]
#[command(after_long_help = "\
once lets those connections pass that wait, and no other; agent puts a rule in front of the agent's policy; always does so \
for every agent whose policy asks, now and those to come; deny refuses those that wait, and those of the next ten minutes.")]
pub struct Args {
    /// Question, by id
    question: QuestionId,
    /// What is decided
    #[arg(value_name = "once|agent|always|deny", value_parser = decision)]
    decision: Decision,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let answered = control.answer_question(self.question, self.decision).await?;
        match global.output {
            Format::Json => output::json(&answered)?,
            Format::Table => output::line(clean::text(&asking::answered(&answered)))?,
        }
        Ok(0)
    }
}
