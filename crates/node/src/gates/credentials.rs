//! What gates need for looking into TLS: the credentials of their agents, and by what they verify servers.

use super::{Gates, Inner};
use model::gate_api::{Credential, ToGate};
use model::{AccountId, AgentId};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The longest file of certificates. Those of distributions have some 250 KiB.
const MAX_ROOTS: u64 = 4 << 20;

impl Gates {
    /// All that is put into an agent's requests, in place of what was before; none is nothing any more.
    pub(crate) fn set_credentials(&self, agent: AgentId, credentials: Vec<Credential>) {
        let mut inner = self.lock();
        let before = match credentials.is_empty() {
            true => inner.credentials.remove(&agent),
            false => inner.credentials.insert(agent, credentials),
        };
        let Inner { credentials, running, .. } = &mut *inner;
        if before.as_ref() == credentials.get(&agent) {
            return;
        }
        for running in running.values_mut().filter(|running| running.agents.contains_key(&agent)) {
            running.credentials_due.insert(agent);
            running.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// What the account's gate was not told of yet.
    pub(super) fn news_of_credentials(&self, account: AccountId) -> Vec<ToGate> {
        let mut inner = self.lock();
        let Inner { credentials, running, .. } = &mut *inner;
        let Some(running) = running.get_mut(&account) else { return Vec::new() };
        let told = |agent| {
            let credentials = credentials.get(&agent).cloned().unwrap_or_default();
            ToGate::Credentials { agent, credentials }
        };
        std::mem::take(&mut running.credentials_due).into_iter().map(told).collect()
    }

    /// By what servers are verified, as this machine has it now. Without, gates look into nothing.
    pub(super) fn roots(&self) -> Option<ToGate> {
        let path = &self.settings.egress.roots;
        let read = read_roots(path).inspect_err(|error| {
            let path = path.display();
            tracing::error!(
                %path, %error,
                "no certificates to verify servers by: requests inside of TLS are refused where a policy looks at them; \
                 install ca-certificates, or set `egress.roots` in node.toml"
            );
        });
        read.ok().map(|pem| ToGate::Roots { pem })
    }
}

/// A file of certificates.
pub(crate) fn read_roots(path: &Path) -> io::Result<String> {
    let mut pem = String::new();
    File::open(path)?.take(MAX_ROOTS + 1).read_to_string(&mut pem)?;
    if pem.len() as u64 > MAX_ROOTS { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(pem) }
}
