//! Secrets: what the database itself refuses, whatever is written to it.

use super::*;
use crate::{DataKey, Encrypted, NewSecret, NewValue};
use model::secret::SecretUse;
use model::{KeyId, SecretId};

fn encrypted(key: KeyId) -> Encrypted {
    Encrypted { data_key: key, nonce: vec![1; 12], ciphertext: vec![2; 40] }
}

async fn key(world: &World, account: AccountId) -> KeyId {
    let key = DataKey { id: KeyId::new(), account, wrapped_by: "one".to_owned(), wrapped: vec![0; 60] };
    world.store.first_data_key(Actor::System, &key).await.unwrap().id
}

async fn secret(world: &World, account: AccountId, name: &str) -> SecretId {
    let value = encrypted(key(world, account).await);
    let new = NewSecret {
        id: SecretId::new(),
        account,
        name: name.parse().unwrap(),
        hosts: Vec::new(),
        hint: "••••".to_owned(),
        value,
    };
    world.store.create_secret(Actor::System, &new, None).await.unwrap().id
}

fn injecting(secret: &str) -> Policy {
    let text = format!(
        "version = 1\n[[egress.inject]]\nsecret = \"{secret}\"\nhost = \"a.example\"\nbearer = true\n"
    );
    Policy::parse(&text).unwrap()
}

both!(accounts_do_not_mix);
async fn accounts_do_not_mix(engine: Engine) {
    let world = World::on(engine).await;
    let other = world.store.create_account(Actor::System, &new_account("other")).await.unwrap();
    let (own, foreign) = (secret(&world, world.account, "own").await, secret(&world, other, "foreign").await);
    let agent = world.agent("a").await.spec.id.to_string();
    let row = "INSERT INTO agent_secrets (agent, secret, account, given, injected) VALUES ($1, $2, $3, 1, 0)";
    for account in [world.account, other] {
        let binds = [agent.clone(), foreign.to_string(), account.to_string()];
        assert!(world.raw(row, &binds).await.is_err(), "another account's secret at this agent");
    }
    world.raw(row, &[agent.clone(), own.to_string(), world.account.to_string()]).await.unwrap();
    for set in ["secret = $1", "account = $2"] {
        let sql = match set {
            "secret = $1" => "UPDATE agent_secrets SET secret = $1",
            _ => "UPDATE agent_secrets SET account = $1",
        };
        let bind = if set == "secret = $1" { foreign.to_string() } else { other.to_string() };
        assert!(world.raw(sql, &[bind]).await.is_err(), "{set}");
    }
    // Neither is a value under another account's key, nor of another version or secret than its own.
    let keys = [key(&world, world.account).await, key(&world, other).await];
    assert_ne!(keys[0], keys[1]);
    for sql in [
        "UPDATE secret_values SET data_key = $1 WHERE secret = $2",
        "UPDATE secret_values SET account = $3 WHERE secret = $2",
        "UPDATE secret_values SET version = version + 1 WHERE secret = $2",
        "UPDATE secrets SET version = version + 1 WHERE id = $2",
        "UPDATE secrets SET account = $3 WHERE id = $2",
        "UPDATE data_keys SET account = $3 WHERE id = (SELECT data_key FROM secret_values WHERE secret = $2)",
        "DELETE FROM data_keys WHERE id = (SELECT data_key FROM secret_values WHERE secret = $2)",
        "DELETE FROM secrets WHERE id = $2",
        "UPDATE secret_values SET secret = (SELECT id FROM secrets WHERE account = $3) WHERE secret = $2",
        "INSERT INTO data_keys SELECT 'key_x', account, 'one', wrapped, 0, NULL FROM data_keys WHERE account = $3",
        "UPDATE agent_secrets SET injected = 1",
        "UPDATE secrets SET hint = 'the whole value' WHERE id = $2",
    ] {
        let binds = [keys[1].to_string(), own.to_string(), other.to_string()];
        assert!(world.raw(sql, &binds).await.is_err(), "{sql}");
    }
}

both!(only_the_key_in_use_and_the_next_version_are_taken);
async fn only_the_key_in_use_and_the_next_version_are_taken(engine: Engine) {
    let world = World::on(engine).await;
    let id = secret(&world, world.account, "a").await;
    let old = key(&world, world.account).await;
    let value = |version, key| NewValue { version, hint: "••••".to_owned(), value: encrypted(key) };
    let rotate = async |version, key| {
        world.store.rotate_secret(Actor::System, world.account, id, &value(version, key), None).await
    };
    for version in [0, 1, 3] {
        assert!(matches!(rotate(version, old).await, Err(Error::Overtaken)), "{version}");
    }
    let next =
        DataKey { id: KeyId::new(), account: world.account, wrapped_by: "one".to_owned(), wrapped: vec![] };
    world.store.next_data_key(Actor::System, &next).await.unwrap();
    assert!(matches!(rotate(2, old).await, Err(Error::Overtaken)));
    assert_eq!(world.store.forget_retired_keys().await.unwrap(), 0, "a value is under it");
    assert_eq!(rotate(2, next.id).await.unwrap().version, 2);
    assert_eq!(world.store.forget_retired_keys().await.unwrap(), 1);
    let again =
        world.store.first_data_key(Actor::System, &DataKey { id: KeyId::new(), ..next.clone() }).await;
    assert_eq!(again.unwrap(), next, "there is one already");
}

both!(there_is_an_end_to_secrets);
async fn there_is_an_end_to_secrets(engine: Engine) {
    let world = World::on(engine).await;
    secret(&world, world.account, "first").await;
    let many = "WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
        INSERT INTO secrets SELECT 'sec_' || n, account, 'n' || n, '[]', 1, '', 0, 0 FROM n, secrets WHERE name = 'first'";
    world.raw(many, &[]).await.unwrap();
    let value = encrypted(key(&world, world.account).await);
    let (id, name, hint) = (SecretId::new(), "one-more".parse().unwrap(), String::new());
    let new = NewSecret { id, account: world.account, name, hosts: Vec::new(), hint, value };
    let refused = world.store.create_secret(Actor::System, &new, None).await;
    assert!(matches!(refused, Err(Error::TooManySecrets { most: 1000 })));
}

both!(a_secret_is_bound_and_deleted_whoever_is_first);
async fn a_secret_is_bound_and_deleted_whoever_is_first(engine: Engine) {
    let world = World::on(engine).await;
    for round in 0..8 {
        let name = format!("s{round}");
        let id = secret(&world, world.account, &name).await;
        let agent = world.agent(&format!("a{round}")).await;
        let placeholders = [(name.parse().unwrap(), format!("placeholder {round}"))].into();
        let policy = injecting(&name);
        let bind = world.store.set_policy(Actor::System, agent.spec.id, &policy, &placeholders, None, None);
        let delete = world.store.delete_secret(Actor::System, world.account, id);
        let (bound, deleted) = tokio::join!(bind, delete);
        assert!(bound.is_ok() != deleted.is_ok(), "{bound:?} {deleted:?}");
        let delivery = world.store.secrets_of(agent.spec.id).await.unwrap();
        assert_eq!((delivery.secrets.len(), delivery.revision), if bound.is_ok() { (1, 1) } else { (0, 0) });
        world.store.order(Actor::System, agent.spec.id, Verb::Destroy, &Order::default()).await.unwrap();
        let gone = world.store.agent(agent.spec.id).await.unwrap();
        world.saw(&gone, gone.generation, Observed::Destroyed).await;
    }
}

both!(an_agent_of_a_request_that_came_twice_has_its_secrets_once);
async fn an_agent_of_a_request_that_came_twice_has_its_secrets_once(engine: Engine) {
    let world = World::on(engine).await;
    secret(&world, world.account, "a").await;
    let mut new = world.new_agent("agent");
    let given = SecretUse { secret: "a".parse().unwrap(), env: Some("A".to_owned()), file: None };
    new.spec.secrets = vec![given.clone(), SecretUse { env: None, file: Some("a".to_owned()), ..given }];
    let agent = world.create(new, place).await.unwrap().0;
    assert_eq!(agent.secrets_revision, 1);
    let delivery = world.store.secrets_of(agent.spec.id).await.unwrap();
    assert_eq!((delivery.secrets.len(), delivery.secrets[0].placeholder.as_deref()), (1, None));
    assert_eq!(world.store.agent(agent.spec.id).await.unwrap(), agent);
}
