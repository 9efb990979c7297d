//! One question after the other, in the terminal.
//!
//! A question takes the whole keyboard: what is typed while it is open answers it or is dropped. Nobody answers by accident: what was
//! typed before the person can have read the question does not count, and an answer is a word and Enter.

use super::line::{Line, Said, Typed};
use super::watch::Watch;
use super::{answered, destination};
use crate::clean;
use crate::keyboard::{self, Keyboard};
use client::{Control, Error};
use model::api::Agent;
use model::egress::{Decision, OpenQuestion};
use model::policy::{Policy, Unknown};
use model::{Code, QuestionId};
use std::collections::BTreeSet;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};

/// Between a question and its prompt: what is typed until then was not meant for it.
const READING: Duration = Duration::from_secs(1);
/// A question that control still tells of so long after its time is none.
const LATE: Duration = Duration::from_secs(5);

/// How the terminal is, and what may be answered.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// It is in raw mode.
    pub raw: bool,
    /// An agent's output is on it, and may have left it in any state.
    pub shared: bool,
}

/// Whether there is more to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// This one is settled.
    Next,
    /// The person asked to be left alone, or is gone.
    Stop,
    /// Ctrl-C: nothing was decided.
    Interrupted,
}

/// How a dialogue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Decided(Decision),
    Gone,
    /// There was no answer, and this is why.
    By(After),
}

/// Somebody to ask.
pub struct Asker {
    control: Control,
    watch: Watch,
    /// Those that were asked here.
    settled: BTreeSet<QuestionId>,
}

impl Asker {
    /// Asks in this terminal what an agent asks, if somebody is at it and the agent's policy holds anything. A control that
    /// does not let us ask is no reason not to go on.
    pub async fn here(control: &Control, agent: &Agent, unwanted: bool) -> Option<Self> {
        let here = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        let holds = |policy: &Policy| policy.egress.unknown == Unknown::Hold;
        if unwanted || !here || !agent.policy.as_ref().is_some_and(holds) || !keyboard::is_ours() {
            return None;
        }
        let watch = Watch::begin(control, Some(agent.id.to_string()), |_| ()).await.ok()?;
        Some(Self::new(control.clone(), watch))
    }

    /// Asks what this tells of.
    pub fn new(control: Control, watch: Watch) -> Self {
        Self { control, watch, settled: BTreeSet::new() }
    }

    /// The oldest question that was not asked here yet; it stays that until it is [`Asker::settle`]d.
    pub async fn next(&mut self) -> Result<OpenQuestion, Error> {
        loop {
            let open = self.watch.open();
            self.settled.retain(|id| open.iter().any(|question| question.id == *id));
            if let Some(question) = open.into_iter().find(|question| !self.settled.contains(&question.id)) {
                return Ok(question);
            }
            self.watch.changed().await?;
        }
    }

    /// This one is not asked here again.
    pub fn settle(&mut self, id: QuestionId) {
        self.settled.insert(id);
    }

    /// Whether it still waits.
    pub fn is_open(&self, id: QuestionId) -> bool {
        self.watch.open().iter().any(|question| question.id == id)
    }

    /// Asks, and tells control. `ended` ends it without a decision.
    pub async fn ask(
        &mut self,
        question: &OpenQuestion,
        manner: Manner,
        keyboard: &mut Keyboard,
        ended: impl Future<Output = After>,
    ) -> std::io::Result<After> {
        let mut out = std::io::stderr();
        let ended = ask(question, manner, READING, keyboard, &mut self.watch, ended, &mut out).await?;
        keyboard.forget();
        match ended {
            Ended::Decided(decision) => self.decide(question, decision, &mut out).await?,
            Ended::Gone => {
                self.settle(question.id);
                let late = OffsetDateTime::now_utc() >= question.until - Duration::from_secs(1);
                let why = if late { "its time is over, and it is refused" } else { "it waits no longer" };
                write!(out, "\r\ncofferdam: {why}\r\n")?;
            }
            Ended::By(after) => {
                out.write_all(b"\r\n")?;
                return Ok(after);
            }
        }
        Ok(After::Next)
    }

    /// Tells control what was decided, and the person what became of it.
    pub async fn decide(
        &mut self,
        question: &OpenQuestion,
        decision: Decision,
        out: &mut impl Write,
    ) -> std::io::Result<()> {
        let said = match self.control.answer_question(question.id, decision).await {
            Ok(done) => {
                self.settle(question.id);
                answered(&done)
            }
            // What control refuses it will refuse again; what did not arrive is asked again.
            Err(error) => {
                if !matches!(error.code(), Some(Code::Unavailable | Code::Timeout)) {
                    self.settle(question.id);
                }
                format!("that was not decided: {error}")
            }
        };
        write!(out, "cofferdam: {}\r\n", clean::text(&said))
    }
}

/// Ends whatever an agent's output has begun (CAN, ST, VT52, printing, a status line, an update that is not shown yet), and shows text as it
/// is: the whole screen scrolls, lines wrap and replace what was there, no attributes, the usual characters (SGR 0, G0 as ASCII, SI). On the
/// last line, for the screen's region takes the cursor to its first.
const PLAIN: &str = "\x18\x1b\\\x1b<\x1b[4i\x1b[0$}\x1b[?2026l\x1b[?69l\x1b[?6l\x1b[r\x1b[4l\x1b[?7h\x1b[?25h\x1b[0m\x1b(B\x0f\x1b[999;1H";

/// Asks until there is an answer, or the question waits no longer.
async fn ask(
    question: &OpenQuestion,
    manner: Manner,
    reading: Duration,
    keyboard: &mut Keyboard,
    watch: &mut Watch,
    ended: impl Future<Output = After>,
    out: &mut impl Write,
) -> std::io::Result<Ended> {
    let (agent, to) = (&question.name, clean::text(&destination(question)));
    let plain = if manner.shared { PLAIN } else { "" };
    let stop = if manner.shared { ", or (s)top asking here" } else { "" };
    let left = left(question);
    write!(
        out,
        "{plain}\r\n\x07cofferdam: {agent} wants to connect to {to}, which its policy does not name. That waits for {}s.\r\n",
        left.as_secs()
    )?;
    out.flush()?;
    let over = sleep_until(Instant::now() + left + LATE);
    let armed = sleep_until(Instant::now() + reading);
    tokio::pin!(ended, over, armed);
    let mut line: Option<Line> = None;
    loop {
        let piece = tokio::select! {
            () = watch.gone(question.id) => return Ok(Ended::Gone),
            () = &mut over => return Ok(Ended::Gone),
            after = &mut ended => return Ok(Ended::By(after)),
            () = &mut armed, if line.is_none() => {
                keyboard.forget();
                line = Some(Line::new(manner.raw));
                None
            }
            piece = keyboard.next() => match piece {
                Some(piece) => Some(piece),
                None => return Ok(Ended::By(After::Stop)),
            },
        };
        let typed = match (&mut line, piece) {
            (Some(line), Some(piece)) => {
                let (shown, typed) = line.push(&piece);
                if manner.raw {
                    write!(out, "{shown}")?;
                }
                if let (Some(Typed::Line(_)), true) = (typed, manner.raw) {
                    out.write_all(b"\r\n")?;
                }
                typed
            }
            (Some(_), None) => Some(Typed::Line(Said::Unclear)),
            // Too early.
            (None, _) => None,
        };
        match typed {
            Some(Typed::Line(Said::Decided(decision))) => return Ok(Ended::Decided(decision)),
            Some(Typed::Line(Said::Stop)) if manner.shared => return Ok(Ended::By(After::Stop)),
            Some(Typed::Interrupt) => return Ok(Ended::By(After::Interrupted)),
            Some(Typed::Line(_)) => write!(
                out,
                "cofferdam: {agent} to {to}: allow it (o)nce, for this (a)gent, al(w)ays, (d)eny it{stop}? "
            )?,
            None => {}
        }
        out.flush()?;
    }
}

/// How long it waits still. Clocks differ, so never longer than it waits in all.
fn left(question: &OpenQuestion) -> Duration {
    let all = question.until - question.asked;
    (question.until - OffsetDateTime::now_utc()).min(all).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests;
