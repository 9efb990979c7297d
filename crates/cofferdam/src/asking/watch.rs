//! Asks control what waits, again and again. As long as that goes on, somebody is there, and connections wait.

use client::{Control, Error};
use model::egress::{OpenQuestion, Questions};
use model::{Code, QuestionId};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long control waits for a change in one call, in seconds; half of the time for which that counts as somebody's being there.
const WAIT: u64 = 45;
/// Between two calls that were not waited for, at least.
const LEAST: Duration = Duration::from_secs(1);
/// Between two calls to a control that does not answer, at most.
const MOST: Duration = Duration::from_secs(15);

/// Looks after questions, until it is dropped.
pub struct Watch {
    open: watch::Receiver<Vec<OpenQuestion>>,
    failed: oneshot::Receiver<Error>,
    task: JoinHandle<()>,
}

impl Watch {
    /// From now on, of one agent or of all. A control that does not answer later on is asked again; `told` hears of it.
    pub async fn begin(control: &Control, agent: Option<String>, told: fn(&Error)) -> Result<Self, Error> {
        let first = control.egress_questions(agent.as_deref(), None, 0).await?;
        let (questions, open) = watch::channel(first.items);
        let (failure, failed) = oneshot::channel();
        let control = control.clone();
        let task = tokio::spawn(async move {
            let error = poll(&control, agent, first.revision, &questions, told).await;
            let _ = failure.send(error);
        });
        Ok(Self { open, failed, task })
    }

    /// Of what a test says.
    #[cfg(test)]
    pub fn of(open: watch::Receiver<Vec<OpenQuestion>>) -> Self {
        let (_, failed) = oneshot::channel();
        Self { open, failed, task: tokio::spawn(std::future::pending()) }
    }

    /// What waits now.
    pub fn open(&self) -> Vec<OpenQuestion> {
        self.open.borrow().clone()
    }

    /// Waits for a change of what waits; an error when there will be none any more.
    pub async fn changed(&mut self) -> Result<(), Error> {
        if self.open.changed().await.is_ok() {
            return Ok(());
        }
        let lost = || Error::Lost { url: "control".to_owned(), reason: "nobody asks any more".to_owned() };
        Err((&mut self.failed).await.unwrap_or_else(|_| lost()))
    }

    /// Waits until this one waits no longer; for ever when nobody asks any more.
    pub async fn gone(&mut self, id: QuestionId) {
        if self.open.wait_for(|open| open.iter().all(|question| question.id != id)).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until an error that will not go away by itself.
async fn poll(
    control: &Control,
    agent: Option<String>,
    mut revision: u64,
    questions: &watch::Sender<Vec<OpenQuestion>>,
    told: fn(&Error),
) -> Error {
    let mut pause = LEAST;
    let mut since = Some(revision);
    loop {
        let asked = Instant::now();
        match control.egress_questions(agent.as_deref(), since, WAIT).await {
            Ok(Questions { revision: now, items }) => {
                let waited = now != revision || asked.elapsed() >= LEAST;
                (revision, since, pause) = (now, Some(now), LEAST);
                questions.send_if_modified(|open| {
                    let changed = *open != items;
                    *open = items;
                    changed
                });
                if !waited {
                    sleep(LEAST).await;
                }
            }
            Err(error) if passes(&error) => {
                if pause == LEAST {
                    told(&error);
                }
                sleep(pause).await;
                pause = (pause * 2).min(MOST);
                since = None;
            }
            Err(error) => return error,
        }
    }
}

fn passes(error: &Error) -> bool {
    matches!(error.code(), Some(Code::Unavailable | Code::Timeout | Code::TooMany | Code::Internal))
}
