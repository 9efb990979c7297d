//! The control API on what leaves agents: the log, questions that wait for a person, and what was decided for good.

use crate::control::Control;
use crate::error::Error;
use model::EventId;
use model::api::Page;
use model::egress::{AnswerQuestion, Answered, Decision, LogEntry, Outcome, Questions, Remembered};
use model::{QuestionId, RememberedId};
use reqwest::RequestBuilder;

/// The most that control lists in one answer.
const PAGE: usize = 200;

/// Which records of the egress log are asked for.
#[derive(Debug, Clone, Default)]
pub struct EgressFilter {
    /// Those of this agent, by id or name. One that is destroyed has its id alone.
    pub agent: Option<String>,
    /// Those that ended like this.
    pub outcome: Option<Outcome>,
}

impl EgressFilter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let agent = self.agent.clone().map(|agent| ("agent", agent));
        let outcome = self.outcome.map(|outcome| ("outcome", outcome.to_string()));
        agent.into_iter().chain(outcome).collect()
    }
}

impl Control {
    fn egress(&self, path: &str) -> RequestBuilder {
        self.endpoint.get(&["v1", "egress", path])
    }

    /// The newest records of the egress log, newest first, at most `limit`.
    pub async fn egress_log(&self, filter: &EgressFilter, limit: usize) -> Result<Vec<LogEntry>, Error> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut cursor: Option<String> = None;
        while entries.len() < limit {
            let size = (limit - entries.len()).min(PAGE).to_string();
            let mut request = self.egress("log").query(&filter.query()).query(&[("limit", size)]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page<LogEntry> = self.endpoint.json(request).await?;
            entries.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        Ok(entries)
    }

    /// The records behind the one of the id `after`, oldest first, at most 200; 0 is before all. When there are none yet, the
    /// answer comes with the first, or empty after `wait` seconds, of which 60 are the most. To follow the log, ask again with
    /// the id of the last.
    pub async fn egress_log_after(
        &self,
        filter: &EgressFilter,
        after: u64,
        wait: u64,
    ) -> Result<Vec<LogEntry>, Error> {
        let query = [("after", after.to_string()), ("wait", wait.to_string()), ("limit", PAGE.to_string())];
        let request = self.egress("log").query(&filter.query()).query(&query);
        Ok(self.endpoint.json::<Page<LogEntry>>(request).await?.items)
    }

    /// What waits for a decision, of one agent (by id or name) or of all, oldest first. That it is asked tells control that
    /// somebody is there to decide, for the next 90 seconds: without that, nothing waits. With `since`, the revision of an earlier
    /// answer, the answer comes when something changed, or after `wait` seconds, of which 60 are the most.
    pub async fn egress_questions(
        &self,
        agent: Option<&str>,
        since: Option<u64>,
        wait: u64,
    ) -> Result<Questions, Error> {
        let agent = agent.map(|agent| ("agent", agent.to_owned()));
        let since = since.map(|since| ("since", since.to_string()));
        let query: Vec<_> = agent.into_iter().chain(since).chain([("wait", wait.to_string())]).collect();
        self.endpoint.json(self.egress("questions").query(&query)).await
    }

    /// Decides a question. `NOT_FOUND` when it waits no longer, `WRONG_STATE` when somebody decided it already, or when a policy has no
    /// room for the rule. A lost answer is asked for again under the same idempotency key.
    pub async fn answer_question(&self, id: QuestionId, decision: Decision) -> Result<Answered, Error> {
        let (id, key) = (id.to_string(), EventId::new().base32());
        let request = || {
            let request = self.endpoint.post(&["v1", "egress", "questions", &id, "answer"]);
            request.header("idempotency-key", &key).json(&AnswerQuestion { decision })
        };
        match self.endpoint.json(request()).await {
            Err(Error::Lost { .. }) => self.endpoint.json(request()).await,
            answer => answer,
        }
    }

    /// All hosts that were decided for good, newest first.
    pub async fn remembered(&self) -> Result<Vec<Remembered>, Error> {
        self.pages(|| self.egress("remembered")).await
    }

    /// Forgets one of them: agents that are made from then on have to ask. Policies that have the rule keep it.
    pub async fn forget_remembered(&self, id: RememberedId) -> Result<(), Error> {
        let id = id.to_string();
        self.endpoint.send(self.endpoint.delete(&["v1", "egress", "remembered", &id])).await.map(drop)
    }
}
