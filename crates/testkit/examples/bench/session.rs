//! The installation under test, and what a program does with it.

use client::{Control, Incoming, Workspace};
use model::api::{Agent, CreateAgent};
use model::token::Scope;
use model::workspace::CreateExec;
use model::{AgentState, Verb};
use serde_json::json;
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
}

/// Whether boundaries are made ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blanks {
    /// No.
    None,
    /// Yes, and each create waits for one.
    Ready,
}

impl Session {
    /// Starts it, with the base image.
    pub fn start(blanks: Blanks) -> Self {
        let world = World::prepare_sized(SLOTS);
        if blanks == Blanks::None {
            world.without_blanks();
        }
        world.up();
        world.provide_image();
        let (runtime, control) = world.control();
        Self { world, runtime, control, blanks }
    }

    /// Waits until a blank is ready, if this session has any.
    pub fn ready(&self) {
        while self.blanks == Blanks::Ready && self.world.blanks() == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Runs a piece of the client's work.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// What is created: nothing but defaults and a small memory limit.
pub fn request() -> CreateAgent {
    serde_json::from_value(json!({"image": "debian"})).expect("a request")
}

/// Creates an agent and waits until it runs.
pub async fn create(control: &Control) -> Agent {
    let agent = control.create_agent(&request()).await.expect("created");
    let agent = control.wait_agent(&agent.id.to_string(), "running", 60).await.expect("an answer");
    assert_eq!(agent.state, AgentState::Running, "{:?}", agent.reason);
    agent
}

/// A way into an agent.
pub async fn workspace(control: &Control, agent: &Agent) -> Workspace {
    let token = control.workspace_token(&agent.id.to_string(), &[Scope::Exec, Scope::Files]).await;
    Workspace::new(agent.id, &token.expect("a token")).expect("a client")
}

/// Runs a command to its end; its output is counted and dropped.
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
