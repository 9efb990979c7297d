//! The installation under test, and what a program does with it.

use client::{Control, Incoming, Workspace};
use model::agent::Level;
use model::api::{Agent, CreateAgent, CreateWorkspaceToken};
use model::token::Scope;
use model::workspace::CreateExec;
use model::{AgentState, Verb};
use serde_json::json;
use std::cell::Cell;
use testkit::World;
use tokio::runtime::Runtime;

/// Agents that the installation can hold.
const SLOTS: u32 = 1100;

/// An installation with a client whose connections are kept.
pub struct Session {
    /// The installation.
    pub world: World,
    /// Where the client runs.
    pub runtime: Runtime,
    /// The client.
    pub control: Control,
    /// Whether agents find boundaries ready.
    pub blanks: Blanks,
    /// How the agents are isolated.
    level: Level,
    asked: Cell<u64>,
}

/// Whether boundaries are made ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blanks {
    /// No.
    None,
    /// Bare ones: every create is of a shape that nobody asked for before.
    Bare,
    /// Whole ones, and each create waits for one.
    Ready,
}

impl Blanks {
    /// In a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "nothing made ahead",
            Self::Bare => "no blank ready",
            Self::Ready => "a blank ready",
        }
    }
}

impl Session {
    /// Starts it, with the base image, for containers.
    pub fn start(blanks: Blanks) -> Self {
        Self::start_at(Level::Container, blanks)
    }

    /// Starts it, with the base image, for agents of a level.
    pub fn start_at(level: Level, blanks: Blanks) -> Self {
        Self::sized(SLOTS, level, blanks)
    }

    /// One that can hold so many agents, none of which finds its boundary ready.
    pub fn holding(slots: u32) -> Self {
        Self::sized(slots, Level::Container, Blanks::None)
    }

    fn sized(slots: u32, level: Level, blanks: Blanks) -> Self {
        let world = World::prepare_sized(slots);
        match blanks {
            Blanks::None => world.blanks_at_most(0),
            // Those with an image come after it, and so never.
            Blanks::Bare => world.blanks_at_most(1),
            Blanks::Ready => {}
        }
        world.up();
        world.provide_image();
        let (runtime, control) = world.control();
        Self { world, runtime, control, blanks, level, asked: Cell::new(0) }
    }

    /// What is created: nothing but defaults, or a little more memory than ever before.
    pub fn request(&self) -> CreateAgent {
        let mut request = CreateAgent { level: Some(self.level), ..request() };
        if self.blanks == Blanks::Bare {
            self.asked.set(self.asked.get() + 1);
            request.resources.memory.0 += self.asked.get() << 20;
        }
        request
    }

    /// Waits until a blank is ready of the kind that this session is about, if any.
    pub fn ready(&self) {
        let kind = match self.blanks {
            Blanks::None => return,
            Blanks::Bare => testkit::Blanks::Bare,
            Blanks::Ready => testkit::Blanks::Whole,
        };
        while self.world.blanks(kind) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Runs a piece of the client's work.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// Nothing but defaults.
pub fn request() -> CreateAgent {
    serde_json::from_value(json!({})).expect("a request")
}

/// Creates an agent and has a way into it: one call. The first exec waits until it runs.
pub async fn open(control: &Control, request: CreateAgent) -> (Agent, Workspace) {
    let token = Some(CreateWorkspaceToken { scopes: vec![Scope::Exec, Scope::Files] });
    let (agent, workspace) = control.reach_agent(&CreateAgent { token, ..request }).await.expect("created");
    (agent, workspace.expect("a token"))
}

/// Creates an agent and waits until it runs.
pub async fn create(control: &Control, request: CreateAgent) -> Agent {
    let (agent, _) = control.start_agent(&request, 60).await.expect("created");
    assert_eq!(agent.state, AgentState::Running, "{:?}", agent.reason);
    agent
}

/// Runs a command to its end, for its short output.
pub async fn run(workspace: &Workspace, argv: &[&str]) {
    let create: CreateExec = serde_json::from_value(json!({"argv": argv})).expect("a request");
    let output = workspace.run(&create, 60).await.expect("an answer");
    assert_eq!(output.exec.exit.expect("it ended").code, 0, "{:?}", output.stderr);
}

/// Runs a command to its end with its streams attached; its output is counted and dropped.
pub async fn exec(workspace: &Workspace, argv: &[&str]) -> u64 {
    let create: CreateExec = serde_json::from_value(json!({"argv": argv})).expect("a request");
    let (_, attached) = workspace.exec_attached(&create).await.expect("started");
    let (_sender, mut receiver) = attached.split();
    let mut bytes = 0;
    loop {
        match receiver.next().await.expect("its output") {
            Incoming::Stdout(data) | Incoming::Stderr(data) => bytes += data.len() as u64,
            Incoming::Lost(lost) => panic!("{lost} bytes were lost"),
            Incoming::Exited(exit) => {
                assert_eq!(exit.code, 0, "{exit:?}");
                return bytes;
            }
        }
    }
}

/// Destroys an agent and waits until it is gone.
pub async fn destroy(control: &Control, agent: &Agent) {
    let id = agent.id.to_string();
    control.verb(&id, Verb::Destroy).await.expect("an order");
    match control.wait_agent(&id, "destroyed", 60).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => panic!("{error}"),
    }
}
