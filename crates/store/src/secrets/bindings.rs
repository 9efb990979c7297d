//! Which agents have which secrets: given to them for life, or put into their requests by their policies.

use super::Secret;
use crate::Error;
use crate::agents::Agent;
use crate::batch::Batch;
use crate::change::Change;
use crate::db::query;
use crate::rows::{Row, to_json};
use model::policy::Policy;
use model::secret::SecretUse;
use model::{AccountId, AgentId, Name, NodeId, SecretId};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Agents that a refusal names.
const NAMED: usize = 8;

/// A placeholder for each secret that a policy puts into requests. One that the agent has already is kept.
pub type Placeholders = BTreeMap<Name, String>;

/// A secret of the account, as far as it matters who may have it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    id: SecretId,
    hosts: Vec<String>,
}

/// How an agent is to have a secret.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    given: bool,
    injected: bool,
    placeholder: Option<String>,
}

/// Of the rows of [`ask_known`].
pub(crate) fn known(rows: &[Row]) -> Result<BTreeMap<Name, Known>, Error> {
    let known =
        |row: &Row| Ok((row.parsed("name")?, Known { id: row.parsed("id")?, hosts: row.json("hosts")? }));
    rows.iter().map(known).collect()
}

/// Asks for the secrets of these names.
pub(crate) fn ask_known<'n>(
    batch: &mut Batch,
    account: AccountId,
    names: impl IntoIterator<Item = &'n Name>,
) {
    let names: BTreeSet<&Name> = names.into_iter().collect();
    batch
        .add("SELECT id, name, hosts FROM secrets WHERE account = $1 AND name IN (SELECT value FROM json_each($2))")
        .bind(account.to_string())
        .bind(to_json(&names));
}

/// The secrets that these speak of.
pub fn named<'a>(uses: &'a [SecretUse], policy: Option<&'a Policy>) -> impl Iterator<Item = &'a Name> {
    let injected = policy.into_iter().flat_map(|policy| &policy.egress.inject).map(|inject| &inject.secret);
    uses.iter().map(|given| &given.secret).chain(injected)
}

fn fault(field: String, message: String, remedy: &str) -> Error {
    Error::Secret { field, message, remedy: remedy.to_owned() }
}

/// What an agent is to have by what it is given for life and by its policy, whose fields are named beneath `under`.
pub(crate) fn wishes(
    uses: &[SecretUse],
    policy: Option<&Policy>,
    known: &BTreeMap<Name, Known>,
    placeholders: &Placeholders,
    under: &str,
) -> Result<BTreeMap<SecretId, Wish>, Error> {
    let find = |name: &Name, field: &str| {
        known.get(name).ok_or_else(|| {
            let message = format!("the account has no secret {name}");
            fault(format!("{field}.secret"), message, "set it first: POST /v1/secrets")
        })
    };
    let mut wishes: BTreeMap<SecretId, Wish> = BTreeMap::new();
    for (index, given) in uses.iter().enumerate() {
        let field = format!("secrets[{index}]");
        let Known { id, hosts } = find(&given.secret, &field)?;
        if !hosts.is_empty() {
            let message =
                format!("the secret {} is for some hosts alone, and no agent is given it", given.secret);
            let remedy = "have a policy put it into requests: `egress.inject`";
            return Err(fault(format!("{field}.secret"), message, remedy));
        }
        wishes.entry(*id).or_default().given = true;
    }
    for (index, inject) in policy.into_iter().flat_map(|policy| &policy.egress.inject).enumerate() {
        let field = format!("{under}egress.inject[{index}]");
        let Known { id, hosts } = find(&inject.secret, &field)?;
        if !inject.is_within(hosts) {
            let message = format!("the secret {} is not for all of {}", inject.secret, inject.host);
            let remedy = "name one of the secret's hosts, or PUT others at /v1/secrets/NAME/hosts";
            return Err(fault(format!("{field}.host"), message, remedy));
        }
        let wish = wishes.entry(*id).or_default();
        wish.injected = true;
        wish.placeholder = placeholders.get(&inject.secret).cloned();
    }
    Ok(wishes)
}

/// An agent that has a secret and is not to be destroyed.
pub(super) struct Holder {
    agent: Name,
    policy: Option<Policy>,
    given: bool,
}

/// The agents, as the end of a sentence.
pub(super) fn listed(holders: &[Holder]) -> String {
    let names: Vec<&str> = holders.iter().take(NAMED).map(|holder| holder.agent.as_str()).collect();
    let more = match holders.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let word = if holders.len() == 1 { "the agent" } else { "the agents" };
    format!("{word} {}{more}", names.join(", "))
}

impl Change {
    /// Makes the rows of an agent that was just made.
    pub(crate) fn bind_new(&mut self, account: AccountId, agent: AgentId, wishes: &BTreeMap<SecretId, Wish>) {
        if !wishes.is_empty() {
            self.put_wishes(account, agent, wishes);
        }
    }

    fn put_wishes(&mut self, account: AccountId, agent: AgentId, wishes: &BTreeMap<SecretId, Wish>) {
        let rows: Vec<_> = wishes
            .iter()
            .map(|(secret, wish)| {
                json!({"secret": secret, "given": i64::from(wish.given), "injected": i64::from(wish.injected),
                    "placeholder": wish.placeholder})
            })
            .collect();
        // (SQLite's parser wants a WHERE before ON CONFLICT behind a SELECT.)
        self.deferred
            .add(
                "INSERT INTO agent_secrets (agent, secret, account, given, injected, placeholder)
                 SELECT $1, value ->> 'secret', $2, CAST(value ->> 'given' AS BIGINT),
                    CAST(value ->> 'injected' AS BIGINT), value ->> 'placeholder'
                 FROM json_each($3) WHERE true
                 ON CONFLICT (agent, secret) DO UPDATE SET injected = excluded.injected,
                    placeholder = coalesce(agent_secrets.placeholder, excluded.placeholder)",
            )
            .bind(agent.to_string())
            .bind(account.to_string())
            .bind(to_json(&rows));
    }

    /// Has an agent those secrets that its new policy speaks of, and tells the revision that this makes of them.
    pub(crate) async fn bind(
        &mut self,
        agent: &Agent,
        policy: &Policy,
        placeholders: &Placeholders,
    ) -> Result<u64, Error> {
        let (id, account) = (agent.spec.id, agent.spec.account);
        let mut asked = Batch::default();
        ask_known(&mut asked, account, named(&agent.spec.secrets, Some(policy)));
        asked.add("SELECT secret FROM agent_secrets WHERE agent = $1 AND injected = 1").bind(id.to_string());
        let answers = self.run(asked).await?;
        let [rows, before] = &*answers else { return Err(Error::Unaudited) };
        let wishes = wishes(&agent.spec.secrets, Some(policy), &known(rows)?, placeholders, "")?;
        let before: BTreeSet<SecretId> =
            before.iter().map(|row| row.parsed("secret")).collect::<Result<_, _>>()?;
        let now: BTreeSet<SecretId> =
            wishes.iter().filter(|(_, wish)| wish.injected).map(|(secret, _)| *secret).collect();
        if before == now {
            return Ok(agent.secrets_revision);
        }
        self.deferred
            .add(
                "UPDATE agent_secrets SET injected = 0
                 WHERE agent = $1 AND secret NOT IN (SELECT value FROM json_each($2))",
            )
            .bind(id.to_string())
            .bind(to_json(&now));
        self.put_wishes(account, id, &wishes);
        Ok(agent.secrets_revision + 1)
    }

    /// The agents that have a secret and are not to be destroyed.
    pub(super) async fn holders(&mut self, secret: SecretId) -> Result<Vec<Holder>, Error> {
        let rows = query(
            "SELECT a.name, a.policy, b.given FROM agent_secrets b JOIN agents a ON a.id = b.agent
             WHERE b.secret = $1 AND (b.given = 1 OR b.injected = 1) AND a.desired <> 'destroyed' ORDER BY a.name",
        )
        .bind(secret.to_string())
        .fetch_all(self.db().await?)
        .await?;
        let holder = |row: &Row| {
            Ok(Holder {
                agent: row.parsed("name")?,
                policy: row.json_opt("policy")?,
                given: row.flag("given")?,
            })
        };
        rows.iter().map(holder).collect()
    }

    /// Refuses hosts that would leave out some that an agent has the secret for.
    pub(super) async fn check_hosts(&mut self, secret: &Secret, hosts: &[String]) -> Result<(), Error> {
        let outside = |holder: &Holder| {
            let inject = holder.policy.iter().flat_map(|policy| &policy.egress.inject);
            let mut own = inject.filter(|inject| inject.secret == secret.name);
            holder.given && !hosts.is_empty() || own.any(|inject| !inject.is_within(hosts))
        };
        let holders: Vec<Holder> = self.holders(secret.id).await?.into_iter().filter(outside).collect();
        match holders.is_empty() {
            true => Ok(()),
            false => Err(Error::InUse {
                what: format!("the secret {} is used elsewhere: {}", secret.name, listed(&holders)),
            }),
        }
    }

    /// The value of a secret changed, or where it may go: nodes of the agents that have it are told.
    pub(super) async fn tell_holders(&mut self, secret: SecretId) -> Result<(), Error> {
        let rows = query(
            "SELECT DISTINCT a.node FROM agent_secrets b JOIN agents a ON a.id = b.agent
             WHERE b.secret = $1 AND (b.given = 1 OR b.injected = 1) AND a.desired <> 'destroyed'",
        )
        .bind(secret.to_string())
        .fetch_all(self.db().await?)
        .await?;
        for row in rows {
            let node: NodeId = row.parsed("node")?;
            self.raise(node);
            self.deferred
                .add(
                    "UPDATE agents SET secrets_revision = secrets_revision + 1, node_rev = (SELECT rev FROM nodes WHERE id = $1)
                     WHERE node = $1 AND desired <> 'destroyed' AND id IN
                        (SELECT agent FROM agent_secrets WHERE secret = $2 AND (given = 1 OR injected = 1))",
                )
                .bind(node.to_string())
                .bind(secret.to_string());
            self.flush().await?;
        }
        Ok(())
    }
}
