//! Other keys in place of those in use: whatever dies in between, everything stays readable, and it is gone on with.

use super::secrets::delivery::told;
use super::secrets::{injecting, set, world};
use super::world::{Answer, Machine, World};
use crate::app::secrets::rekey;
use crate::vault::Vault;
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use store::{Actor, BoundSecret, StoredValue};

/// Secrets with their values, all of which an agent has.
struct Kept {
    world: World,
    machine: Machine,
    agent: String,
    values: BTreeMap<String, String>,
}

async fn kept(count: usize) -> Kept {
    let (world, machine) = world().await;
    let values: BTreeMap<String, String> =
        (0..count).map(|n| (format!("s{n}"), format!("the value of {n}"))).collect();
    for (name, value) in &values {
        set(&world, name, value, &[]).await;
    }
    let pairs: Vec<_> = values.keys().take(16).map(|name| (name.as_str(), "a.example")).collect();
    let made = json!({"name": "a", "policy": injecting(&pairs)});
    let agent = world.post("/v1/agents", made).await.expect(201)["id"].as_str().unwrap().to_owned();
    Kept { world, machine, agent, values }
}

impl Kept {
    /// Every value is what it was.
    async fn check(&self) {
        let (_, secrets) = told(&self.world, &self.machine, &self.agent).await;
        assert_eq!(secrets.len(), self.values.len().min(16));
        for secret in secrets {
            assert_eq!(secret.value.expose(), self.values[secret.name.as_str()]);
        }
    }

    async fn post(&self, path: &str) -> Answer {
        self.world.call_as(&self.world.key, "POST", path, None).await
    }

    async fn data_key(&self) -> store::DataKey {
        self.world.app.store.data_key(self.world.account().await).await.unwrap().unwrap()
    }

    fn keys(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.world.config.secrets_key()).unwrap();
        text.lines().filter(|line| line.starts_with("cofk_")).map(str::to_owned).collect()
    }

    async fn kinds(&self) -> Vec<String> {
        let events = self.world.get("/v1/events?limit=200").await.expect(200);
        let kinds = events["items"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap());
        kinds.filter(|kind| kind.contains("_key.")).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn an_account_gets_another_key() {
    let kept = kept(5).await;
    let (before, delivered) = (kept.data_key().await, told(&kept.world, &kept.machine, &kept.agent).await.0);
    kept.post("/v1/data-key/rotate").await.expect(204);
    let after = kept.data_key().await;
    assert_ne!(before.id, after.id);
    kept.check().await;
    let store = &kept.world.app.store;
    assert!(store.values_under_retired_keys(None, 1).await.unwrap().is_empty());
    assert_eq!(store.forget_retired_keys().await.unwrap(), 0, "the old one is forgotten");
    assert_eq!(told(&kept.world, &kept.machine, &kept.agent).await.0, delivered, "nothing changed for nodes");
    assert_eq!(kept.kinds().await[0], "data_key.rotated");
    // What is set from now on is under the new one.
    kept.world.post("/v1/secrets/s0/rotate", json!({"value": "the value of 0"})).await.expect(200);
    kept.check().await;
    // One that has no secrets yet has a key from now on.
    kept.world.call_as(&kept.world.other, "POST", "/v1/data-key/rotate", None).await.expect(204);
}

#[tokio::test]
async fn a_change_of_an_accounts_key_is_gone_on_with() {
    let mut kept = kept(70).await;
    let account = kept.world.account().await;
    let before = kept.data_key().await;
    // It ended when the new key was there, and one value under it.
    let app = &kept.world.app;
    let next = app.vault.make(account).unwrap();
    app.store.next_data_key(Actor::System, &next).await.unwrap();
    let values = app.store.values_under_retired_keys(None, 1).await.unwrap();
    let value =
        app.vault.open_key(&values[0].key).unwrap().decrypt(values[0].secret, 1, &values[0].value).unwrap();
    let anew = app.vault.open_key(&next).unwrap().encrypt(values[0].secret, 1, &value).unwrap();
    app.store.encrypt_anew(&values[0], &anew).await.unwrap();
    kept.world.restart().await;
    kept.check().await;
    assert_eq!(kept.world.app.store.values_under_retired_keys(None, 100).await.unwrap().len(), 69);
    // Meanwhile somebody sets one of them, and a late hand would put the old value back.
    let late = kept.world.app.store.values_under_retired_keys(None, 1).await.unwrap().remove(0);
    let shown = kept.world.app.store.secret(account, &late.secret.to_string()).await.unwrap();
    let path = format!("/v1/secrets/{}/rotate", shown.name);
    kept.world.post(&path, json!({"value": "set meanwhile"})).await.expect(200);
    kept.values.insert(shown.name.to_string(), "set meanwhile".to_owned());
    kept.world.app.store.encrypt_anew(&late, &anew).await.unwrap();
    kept.check().await;
    rekey::finish(&kept.world.app).await.unwrap();
    assert!(kept.world.app.store.values_under_retired_keys(None, 1).await.unwrap().is_empty());
    assert_eq!(kept.data_key().await.id, next.id);
    assert_ne!(before.id, next.id);
    kept.check().await;
    rekey::finish(&kept.world.app).await.unwrap();
}

#[tokio::test]
async fn a_value_under_a_key_that_was_changed_meanwhile_is_encrypted_again() {
    let kept = kept(1).await;
    let (world, path) = (&kept.world, "/v1/data-key/rotate");
    let set = |n: usize| world.post("/v1/secrets/s0/rotate", json!({"value": format!("{n}")}));
    let (a, b, c, d, e) = tokio::join!(set(1), kept.post(path), set(2), kept.post(path), set(3));
    for answer in [a, c, e] {
        answer.expect(200);
    }
    b.expect(204);
    d.expect(204);
    let (_, secrets) = told(world, &kept.machine, &kept.agent).await;
    assert!(["1", "2", "3"].contains(&secrets[0].value.expose()));
    assert_eq!(world.get("/v1/secrets/s0").await.expect(200)["version"], 4);
}

#[tokio::test]
async fn another_key_wraps_those_of_all_accounts() {
    let mut kept = kept(3).await;
    let foreign = json!({"name": "x", "value": "of another account"});
    kept.world.call_as(&kept.world.other, "POST", "/v1/secrets", Some(foreign)).await.expect(201);
    let before = (kept.data_key().await, kept.keys());
    let wraps = kept.world.app.vault.wraps_by();
    kept.post("/v1/wrapping-key/rotate").await.expect(204);
    let after = (kept.data_key().await, kept.keys());
    assert_eq!((after.0.id, after.1.len()), (before.0.id, 1));
    assert!(after.0.wrapped_by != before.0.wrapped_by && after.1 != before.1);
    assert_eq!(kept.world.app.store.wrapped_by().await.unwrap(), [kept.world.app.vault.wraps_by()]);
    kept.check().await;
    kept.world.restart().await;
    kept.check().await;
    assert_eq!(kept.kinds().await[0], "wrapping_key.rotated");
    let events = kept.world.get("/v1/events?limit=200").await.expect(200).to_string();
    assert!(events.contains(&wraps) && !events.contains(&after.1[0]));
    let metadata = std::fs::metadata(kept.world.config.secrets_key()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_change_of_the_key_that_wraps_is_gone_on_with() {
    for died_after in 0..3 {
        let mut kept = kept(2).await;
        let foreign = json!({"name": "x", "value": "of another account"});
        kept.world.call_as(&kept.world.other, "POST", "/v1/secrets", Some(foreign)).await.expect(201);
        let app = &kept.world.app;
        let old = app.vault.wraps_by();
        let new = app.vault.begin_turn().unwrap();
        for _ in 0..died_after {
            let key = app.store.data_keys_not_wrapped_by(&new, None, 1).await.unwrap().remove(0);
            app.store.wrap_anew(&key, &app.vault.wrap_anew(&key).unwrap()).await.unwrap();
        }
        kept.world.restart().await;
        kept.check().await;
        assert_eq!((kept.keys().len(), kept.world.app.vault.wraps_by()), (2, new.clone()));
        // By control itself at its start, or by whoever asks again.
        if died_after == 1 {
            kept.post("/v1/wrapping-key/rotate").await.expect(204);
            assert_ne!(kept.world.app.vault.wraps_by(), new);
        } else {
            rekey::finish(&kept.world.app).await.unwrap();
            assert_eq!(kept.world.app.vault.wraps_by(), new);
        }
        assert_eq!(kept.keys().len(), 1);
        let by = kept.world.app.store.wrapped_by().await.unwrap();
        assert!(by == [kept.world.app.vault.wraps_by()] && by != [old]);
        kept.world.restart().await;
        kept.check().await;
    }
}

#[tokio::test]
async fn keys_that_are_made_meanwhile_are_not_lost() {
    let (world, _machine) = world().await;
    let make = async |key: String, n: usize| {
        let body = json!({"name": format!("s{n}"), "value": "x"});
        world.call_as(&key, "POST", "/v1/secrets", Some(body)).await.expect(201);
    };
    let rotate = async || {
        world.call_as(&world.key, "POST", "/v1/wrapping-key/rotate", None).await.expect(204);
    };
    tokio::join!(
        make(world.key.clone(), 1),
        rotate(),
        make(world.other.clone(), 1),
        rotate(),
        make(world.key.clone(), 2)
    );
    let by = world.app.store.wrapped_by().await.unwrap();
    assert_eq!(by, [world.app.vault.wraps_by()]);
}

#[tokio::test]
async fn a_row_that_was_meddled_with_is_refused_and_holds_up_no_other() {
    let kept = kept(3).await;
    let app = &kept.world.app;
    let bound = app.store.secrets_of(kept.agent.parse().unwrap()).await.unwrap().secrets;
    // One value in place of another, as whoever may write to the database could.
    let StoredValues { first, second } = StoredValues::of(&bound);
    app.store.encrypt_anew(&first, &second.value).await.unwrap();
    let path = format!("/node/v1/agents/{}/secrets", kept.agent);
    let assertion = super::secrets::delivery::assertion(&kept.world, &kept.machine, &kept.agent);
    let body = Some(json!({"assertion": assertion}));
    let answer = kept.world.call_as(&kept.machine.token, "POST", &path, body).await;
    assert_eq!(answer.problem().0, "INTERNAL");
    // The others get their new key all the same, and the old one is kept for what cannot be read.
    assert_eq!(kept.post("/v1/data-key/rotate").await.problem().0, "INTERNAL");
    let left = app.store.values_under_retired_keys(None, 10).await.unwrap();
    assert_eq!(left.iter().map(|value| value.secret).collect::<Vec<_>>(), [bound[0].id]);
    // Another value mends it.
    kept.world.post("/v1/secrets/s0/rotate", json!({"value": "the value of 0"})).await.expect(200);
    rekey::finish(app).await.unwrap();
    kept.check().await;
}

/// Two values as they are stored.
struct StoredValues {
    first: StoredValue,
    second: StoredValue,
}

impl StoredValues {
    fn of(bound: &[BoundSecret]) -> Self {
        let stored = |bound: &BoundSecret| StoredValue {
            secret: bound.id,
            version: bound.version,
            value: bound.value.clone(),
            key: bound.key.clone(),
        };
        Self { first: stored(&bound[0]), second: stored(&bound[1]) }
    }
}

#[tokio::test]
async fn a_lost_key_stops_control_and_is_not_made_anew() {
    let kept = kept(1).await;
    let config = &kept.world.config;
    let path = config.secrets_key();
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    let error = crate::initialise(config).await.unwrap_err().to_string();
    assert!(error.contains("put it back") && !path.exists(), "{error}");
    // Nor does another installation's do.
    let needed = kept.world.app.store.wrapped_by().await.unwrap();
    let (other, _) = world().await;
    std::fs::copy(other.config.secrets_key(), &path).unwrap();
    assert!(Vault::open(config, &needed).is_err());
    std::fs::rename(&aside, &path).unwrap();
    crate::initialise(config).await.unwrap();
}
