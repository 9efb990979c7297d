//! The workspace API: everything inside one agent.

use crate::attach::Attached;
use crate::credential::Credential;
use crate::error::Error;
use crate::http::{ByteStream, Endpoint};
use crate::pipe::PipeReader;
use crate::port::Relay;
use model::agent::RunAs;
use model::api::WorkspaceToken;
use model::workspace::{CreateExec, Exec, ExecOutput, FileInfo, FileOp, Process, SendSignal, Stats};
use model::{AgentId, ExecId};
use reqwest::RequestBuilder;

/// A connection to one agent's workspace.
#[derive(Clone)]
pub struct Workspace {
    pub(crate) endpoint: Endpoint,
    pub(crate) agent: String,
}

/// Which part of the logs.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOptions {
    /// Go on with what is written from now on.
    pub follow: bool,
    /// At most this many bytes of what was written already.
    pub tail: Option<u64>,
}

fn user_query(user: Option<RunAs>) -> &'static [(&'static str, &'static str)] {
    match user {
        Some(RunAs::Root) => &[("user", "root")],
        Some(RunAs::Agent) => &[("user", "agent")],
        None => &[],
    }
}

impl Workspace {
    /// A client for the agent, with what control handed out; nothing is sent yet.
    pub fn new(agent: AgentId, token: &WorkspaceToken) -> Result<Self, Error> {
        let endpoint = Endpoint::new(&token.url, Credential::Key(token.token.clone()), None)?;
        Ok(Self { endpoint, agent: agent.to_string() })
    }

    pub(crate) fn beside(endpoint: &Endpoint, agent: AgentId, token: &WorkspaceToken) -> Result<Self, Error> {
        let endpoint = endpoint.beside(&token.url, Credential::Key(token.token.clone()))?;
        Ok(Self { endpoint, agent: agent.to_string() })
    }

    pub(crate) fn path<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        let mut segments = vec!["v1", "agents", &*self.agent];
        segments.extend_from_slice(rest);
        segments
    }

    /// Starts a process and leaves it to run.
    pub async fn exec(&self, create: &CreateExec) -> Result<Exec, Error> {
        self.endpoint.json(self.endpoint.post(&self.path(&["execs"])).json(create)).await
    }

    /// Runs a process to its end, for at most `seconds` (60 at most), and brings back what it wrote. When the time is
    /// over it goes on, and the answer has no exit.
    pub async fn run(&self, create: &CreateExec, seconds: u64) -> Result<ExecOutput, Error> {
        let request = self.endpoint.post(&self.path(&["execs"])).query(&[("wait", format!("{seconds}s"))]);
        self.endpoint.json(request.json(create)).await
    }

    /// Starts a process with its streams attached, in one round trip.
    pub async fn exec_attached(&self, create: &CreateExec) -> Result<(Exec, Attached), Error> {
        Attached::start(self, create).await
    }

    /// Attaches to the streams of a process that runs already.
    pub async fn attach(&self, exec: ExecId) -> Result<Attached, Error> {
        Attached::open(self, exec).await
    }

    /// All execs that the agent still knows.
    pub async fn execs(&self) -> Result<Vec<Exec>, Error> {
        self.endpoint.json(self.endpoint.get(&self.path(&["execs"]))).await
    }

    /// One exec.
    pub async fn exec_status(&self, exec: ExecId) -> Result<Exec, Error> {
        self.endpoint.json(self.endpoint.get(&self.path(&["execs", &exec.to_string()]))).await
    }

    /// Sends a signal to an exec's process group.
    pub async fn signal(&self, exec: ExecId, signal: i32) -> Result<(), Error> {
        let id = exec.to_string();
        let request = self.endpoint.post(&self.path(&["execs", &id, "signal"])).json(&SendSignal { signal });
        self.endpoint.send(request).await.map(drop)
    }

    fn files(&self, method: reqwest::Method, path: &str, user: Option<RunAs>) -> RequestBuilder {
        self.endpoint.request(method, &self.path(&["files"])).query(&[("path", path)]).query(user_query(user))
    }

    /// What a path names; a symbolic link is not followed.
    pub async fn stat(&self, path: &str, user: Option<RunAs>) -> Result<FileInfo, Error> {
        self.endpoint.json(self.files(reqwest::Method::GET, path, user).query(&[("view", "stat")])).await
    }

    /// What a directory holds.
    pub async fn list(&self, path: &str, user: Option<RunAs>) -> Result<Vec<FileInfo>, Error> {
        self.endpoint.json(self.files(reqwest::Method::GET, path, user).query(&[("view", "list")])).await
    }

    /// A file's content.
    pub async fn read(&self, path: &str, user: Option<RunAs>) -> Result<ByteStream, Error> {
        let request = self.files(reqwest::Method::GET, path, user).query(&[("view", "content")]);
        self.endpoint.stream(request).await
    }

    /// Writes a file, from bytes at hand.
    pub async fn write(&self, path: &str, mode: u32, content: Vec<u8>) -> Result<(), Error> {
        let request = self
            .files(reqwest::Method::PUT, path, None)
            .query(&[("mode", format!("{mode:o}"))])
            .body(content);
        self.endpoint.send(request).await.map(drop)
    }

    /// Makes a directory, and those above it.
    pub async fn mkdir(&self, path: &str, user: Option<RunAs>) -> Result<(), Error> {
        let request = self.files(reqwest::Method::POST, path, user).json(&FileOp::Mkdir);
        self.endpoint.send(request).await.map(drop)
    }

    /// Renames a path.
    pub async fn rename(&self, path: &str, to: &str, user: Option<RunAs>) -> Result<(), Error> {
        let request = self.files(reqwest::Method::POST, path, user).json(&FileOp::Move { to: to.to_owned() });
        self.endpoint.send(request).await.map(drop)
    }

    /// Removes a path.
    pub async fn remove(&self, path: &str, recursive: bool, user: Option<RunAs>) -> Result<(), Error> {
        let request = self
            .files(reqwest::Method::DELETE, path, user)
            .query(&[("recursive", if recursive { "true" } else { "false" })]);
        self.endpoint.send(request).await.map(drop)
    }

    /// A path and everything beneath it, as tar.
    pub async fn tar_out(&self, path: &str, user: Option<RunAs>) -> Result<ByteStream, Error> {
        let request =
            self.endpoint.get(&self.path(&["tar"])).query(&[("path", path)]).query(user_query(user));
        self.endpoint.stream(request).await
    }

    /// Unpacks a tar beneath a directory of the agent.
    pub async fn tar_in(&self, path: &str, user: Option<RunAs>, tar: PipeReader) -> Result<(), Error> {
        let request = self
            .endpoint
            .put(&self.path(&["tar"]))
            .query(&[("path", path)])
            .query(user_query(user))
            .header("content-type", "application/x-tar")
            .body(reqwest::Body::wrap_stream(tar.into_stream()));
        self.endpoint.send(request).await.map(drop)
    }

    /// What the main process wrote.
    pub async fn logs(&self, options: LogOptions) -> Result<ByteStream, Error> {
        let mut request = self.endpoint.get(&self.path(&["logs"]));
        if options.follow {
            request = request.query(&[("follow", "true")]);
        }
        if let Some(tail) = options.tail {
            request = request.query(&[("tail", tail)]);
        }
        self.endpoint.stream(request).await
    }

    /// What the agent uses now.
    pub async fn stats(&self) -> Result<Stats, Error> {
        self.endpoint.json(self.endpoint.get(&self.path(&["stats"]))).await
    }

    /// What runs inside.
    pub async fn processes(&self) -> Result<Vec<Process>, Error> {
        self.endpoint.json(self.endpoint.get(&self.path(&["processes"]))).await
    }

    /// A connection to a TCP port on the agent's loopback.
    pub async fn port(&self, port: u16) -> Result<Relay, Error> {
        Relay::open(self, port).await
    }
}
