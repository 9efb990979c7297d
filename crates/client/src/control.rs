//! The control API.

use crate::authorities::Authorities;
use crate::credential::{Credential, Prover};
use crate::error::Error;
use crate::http::Endpoint;
use crate::workspace::Workspace;
use model::api::{
    Agent, AgentEvidence, CreateAgent, CreateWorkspaceToken, CreatedAgent, Event, GrantImage, Image, Node,
    Page, Period, RegisterImage, WorkspaceToken,
};
use model::clone::CloneAgent;
use model::packages::ImageDiff;
use model::policy::Policy;
use model::token::Scope;
use model::transfer::{TransferAgent, TransferredAgent};
use model::usage_api::{Day, UsageBy, UsagePage};
use model::{AgentId, AgentState, EventId, Verb};
use reqwest::RequestBuilder;
use serde::de::DeserializeOwned;

/// The most seconds that control waits in one call; longer waits are several calls.
const WAIT_STEP: u64 = 30;

/// A connection to the control plane.
#[derive(Clone)]
pub struct Control {
    pub(crate) endpoint: Endpoint,
}

/// Which agents a list has.
#[derive(Debug, Clone, Default)]
pub struct AgentFilter {
    /// Those with all of these labels, each as `key=value`.
    pub labels: Vec<String>,
    /// Those in this state.
    pub state: Option<AgentState>,
}

impl Control {
    /// A client for the control plane at `url`; nothing is sent yet.
    pub fn new(url: &str, api_key: Option<String>) -> Result<Self, Error> {
        Self::to(url, api_key.map_or(Credential::Nobody, Credential::Key), None)
    }

    /// The same, for whoever calls, and with the authorities that its certificate has to come from: the system's without any.
    pub fn to(url: &str, credential: Credential, authorities: Option<Authorities>) -> Result<Self, Error> {
        Ok(Self { endpoint: Endpoint::new(url, credential, authorities)? })
    }

    /// The same, which asks for a proof where the server wants one before something, and then asks again.
    pub fn proving(self, prover: Prover) -> Self {
        Self { endpoint: self.endpoint.proving(prover) }
    }

    /// Whether a session calls.
    pub fn is_person(&self) -> bool {
        self.endpoint.is_person()
    }

    /// The server, for messages.
    pub fn origin(&self) -> &str {
        self.endpoint.origin()
    }

    /// Whether the server answers at all; needs no key.
    pub async fn healthz(&self) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.get(&["v1", "healthz"])).await.map(drop)
    }

    /// Creates an agent. A lost answer is asked for again under the same idempotency key, so that one call
    /// never makes two agents.
    pub async fn create_agent(&self, create: &CreateAgent) -> Result<Agent, Error> {
        self.post_agent(create, &[]).await.map(|created| created.agent)
    }

    /// Creates an agent and waits until it runs, or rests in another state, for at most `seconds`; the caller looks at
    /// its state. Where the request asks for a token, the way in comes with it.
    pub async fn start_agent(
        &self,
        create: &CreateAgent,
        seconds: u64,
    ) -> Result<(Agent, Option<Workspace>), Error> {
        let step = seconds.min(WAIT_STEP);
        let query = [("wait", "running".to_owned()), ("timeout", format!("{step}s"))];
        let CreatedAgent { mut agent, workspace } = self.post_agent(create, &query).await?;
        let on_its_way = matches!(agent.state, AgentState::Provisioning | AgentState::Starting);
        if on_its_way && seconds > step {
            agent = self.wait_agent(&agent.id.to_string(), "running", seconds - step).await?;
        }
        let token = match (workspace, &create.token) {
            (None, Some(token)) if agent.state == AgentState::Running => {
                Some(self.workspace_token(&agent.id.to_string(), &token.scopes).await?)
            }
            (token, _) => token,
        };
        let workspace = token.map(|token| self.workspace(agent.id, &token)).transpose()?;
        Ok((agent, workspace))
    }

    /// Creates an agent and comes back as soon as its workspace can be called, which may be long before it runs: its gate
    /// holds calls until then. The request has to ask for a token. When a call fails, the agent's state tells why.
    pub async fn reach_agent(&self, create: &CreateAgent) -> Result<(Agent, Option<Workspace>), Error> {
        let query = [("wait", "reachable".to_owned()), ("timeout", format!("{WAIT_STEP}s"))];
        let CreatedAgent { agent, workspace } = self.post_agent(create, &query).await?;
        let workspace = workspace.map(|token| self.workspace(agent.id, &token)).transpose()?;
        Ok((agent, workspace))
    }

    async fn post_agent(
        &self,
        create: &CreateAgent,
        query: &[(&str, String)],
    ) -> Result<CreatedAgent, Error> {
        let key = EventId::new().base32();
        let request = || {
            self.endpoint.post(&["v1", "agents"]).query(query).header("idempotency-key", &key).json(create)
        };
        match self.endpoint.json(request()).await {
            Err(Error::Lost { .. }) => self.endpoint.json(request()).await,
            answer => answer,
        }
    }

    /// The workspace that a token is for. Connections to its gate are kept and shared with others of this client.
    pub fn workspace(&self, agent: AgentId, token: &WorkspaceToken) -> Result<Workspace, Error> {
        Workspace::beside(&self.endpoint, agent, token)
    }

    /// All agents that the filter lets through, newest first.
    pub async fn agents(&self, filter: &AgentFilter) -> Result<Vec<Agent>, Error> {
        let mut query: Vec<(&str, &str)> = filter.labels.iter().map(|label| ("label", &**label)).collect();
        if let Some(state) = filter.state {
            query.push(("state", state.as_str()));
        }
        self.pages(|| self.endpoint.get(&["v1", "agents"]).query(&query)).await
    }

    /// One agent, by id or name.
    pub async fn agent(&self, reference: &str) -> Result<Agent, Error> {
        self.endpoint.json(self.endpoint.get(&["v1", "agents", reference])).await
    }

    /// What was observed of an agent's boundary, by id or name.
    pub async fn evidence(&self, reference: &str) -> Result<AgentEvidence, Error> {
        self.endpoint.json(self.endpoint.get(&["v1", "agents", reference, "evidence"])).await
    }

    /// What an agent was and when, newest first, at most `most` periods.
    pub async fn timeline(&self, reference: &str, most: usize) -> Result<Vec<Period>, Error> {
        let mut periods = self.pages(|| self.endpoint.get(&["v1", "agents", reference, "timeline"])).await?;
        periods.truncate(most);
        Ok(periods)
    }

    /// What the account used from a day on, before another; the month until now unless told. All pages in one.
    pub async fn usage(&self, from: Option<Day>, to: Option<Day>, by: UsageBy) -> Result<UsagePage, Error> {
        let mut query = vec![("by", by.as_str().to_owned()), ("limit", "200".to_owned())];
        query.extend(from.map(|day| ("from", day.to_string())));
        query.extend(to.map(|day| ("to", day.to_string())));
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut request = self.endpoint.get(&["v1", "usage"]).query(&query);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let mut page: UsagePage = self.endpoint.json(request).await?;
            items.append(&mut page.items);
            match page.next.take() {
                Some(next) => cursor = Some(next),
                None => return Ok(UsagePage { items, ..page }),
            }
        }
    }

    /// Waits until the agent is in `state` (or in any state where it rests), for at most `seconds`.
    ///
    /// Answers with the agent as it is then; whether that is what was hoped for, the caller decides.
    pub async fn wait_agent(&self, reference: &str, state: &str, seconds: u64) -> Result<Agent, Error> {
        let mut left = seconds;
        loop {
            let step = left.min(WAIT_STEP);
            let timeout = format!("{step}s");
            let request = self
                .endpoint
                .get(&["v1", "agents", reference])
                .query(&[("wait", state), ("timeout", &timeout)]);
            left -= step;
            match self.endpoint.json::<Agent>(request).await {
                Err(Error::Problem(problem)) if problem.code == model::Code::Timeout && left > 0 => {}
                answer => return answer,
            }
        }
    }

    /// Asks something of an agent; the answer is the agent on its way there.
    pub async fn verb(&self, reference: &str, verb: Verb) -> Result<Agent, Error> {
        let agents = |word: &str| self.endpoint.post(&["v1", "agents", reference, word]);
        let request = match verb {
            Verb::Pause => agents("pause"),
            Verb::Resume => agents("resume"),
            Verb::Stop => agents("stop"),
            Verb::Start => agents("start"),
            Verb::Destroy => self.endpoint.delete(&["v1", "agents", reference]),
        };
        self.endpoint.json(request).await
    }

    /// Gives an agent to another account. A lost answer is asked for again under the same idempotency key: by then the agent may be
    /// there, and not here.
    pub async fn transfer_agent(
        &self,
        reference: &str,
        transfer: &TransferAgent,
    ) -> Result<TransferredAgent, Error> {
        let key = EventId::new().base32();
        let request = || {
            let request = self.endpoint.post(&["v1", "agents", reference, "transfer"]).json(transfer);
            request.header("idempotency-key", &key)
        };
        match self.endpoint.json(request()).await {
            Err(Error::Lost { .. }) => self.endpoint.json(request()).await,
            answer => answer,
        }
    }

    /// What an agent may do now, by id or name, and which revision that is.
    pub async fn policy(&self, reference: &str) -> Result<(Policy, u64), Error> {
        self.endpoint.tagged(self.endpoint.get(&["v1", "agents", reference, "policy"])).await
    }

    /// Gives an agent another policy; refused, with `at`, unless that is the revision of the one that it has. A lost answer is
    /// asked for again under the same idempotency key.
    pub async fn set_policy(
        &self,
        reference: &str,
        policy: &Policy,
        at: Option<u64>,
    ) -> Result<(Policy, u64), Error> {
        let key = EventId::new().base32();
        let request = || {
            let request = self.endpoint.put(&["v1", "agents", reference, "policy"]).json(policy);
            let request = request.header("idempotency-key", &key);
            match at {
                Some(revision) => request.header("if-match", format!("\"{revision}\"")),
                None => request,
            }
        };
        match self.endpoint.tagged(request()).await {
            Err(Error::Lost { .. }) => self.endpoint.tagged(request()).await,
            answer => answer,
        }
    }

    /// A way to the agent's workspace.
    pub async fn workspace_token(&self, reference: &str, scopes: &[Scope]) -> Result<WorkspaceToken, Error> {
        let request = self
            .endpoint
            .post(&["v1", "agents", reference, "token"])
            .json(&CreateWorkspaceToken { scopes: scopes.to_vec() });
        self.endpoint.json(request).await
    }

    /// All images, newest first.
    pub async fn images(&self) -> Result<Vec<Image>, Error> {
        self.pages(|| self.endpoint.get(&["v1", "images"])).await
    }

    /// Makes an image known that lies in the nodes' content store.
    pub async fn register_image(&self, image: &RegisterImage) -> Result<Image, Error> {
        self.endpoint.json(self.endpoint.post(&["v1", "images"]).json(image)).await
    }

    /// What another image has installed other than one, each by id or name.
    pub async fn diff_images(&self, from: &str, to: &str) -> Result<ImageDiff, Error> {
        self.endpoint.json(self.endpoint.get(&["v1", "images", from, "diff"]).query(&[("with", to)])).await
    }

    /// Makes a copy of an agent, by id or name. A lost answer is asked for again under the same idempotency key.
    pub async fn clone_agent(&self, reference: &str, clone: &CloneAgent) -> Result<Agent, Error> {
        let key = EventId::new().base32();
        let request = || {
            let request = self.endpoint.post(&["v1", "agents", reference, "clone"]).json(clone);
            request.header("idempotency-key", &key)
        };
        match self.endpoint.json(request()).await {
            Err(Error::Lost { .. }) => self.endpoint.json(request()).await,
            answer => answer,
        }
    }

    /// Lets another account have an image; for operators.
    pub async fn grant_image(&self, reference: &str, grant: &GrantImage) -> Result<Image, Error> {
        self.endpoint.json(self.endpoint.post(&["v1", "images", reference, "grant"]).json(grant)).await
    }

    /// Forgets an image, by id or name.
    pub async fn remove_image(&self, reference: &str) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.delete(&["v1", "images", reference])).await.map(drop)
    }

    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.pages(|| self.endpoint.get(&["v1", "nodes"])).await
    }

    /// The newest audit events, newest first, at most `limit`.
    pub async fn events(&self, limit: usize) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        let mut cursor: Option<String> = None;
        while events.len() < limit {
            let page_size = (limit - events.len()).min(100).to_string();
            let mut request = self.endpoint.get(&["v1", "events"]).query(&[("limit", &page_size)]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page<Event> = self.endpoint.json(request).await?;
            events.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        Ok(events)
    }

    pub(crate) async fn pages<T: DeserializeOwned>(
        &self,
        first: impl Fn() -> RequestBuilder,
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut request = first();
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page<T> = self.endpoint.json(request).await?;
            items.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(items),
            }
        }
    }
}
