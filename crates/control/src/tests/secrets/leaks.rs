//! A planted value is nowhere but in a sealed answer: not in the database's files, not in the log, not in an answer.

use super::super::world::{Answer, World};
use super::{delete, injecting, put, set, world};
use axum::body::Body;
use base64::Engine;
use serde_json::json;
use std::io::Write;
use std::sync::{Arc, Mutex};

const PLANTED: &str = "sk-planted-0H4rdT0Gu3ss-4f1d";

/// The forms that a value could be in: as it is, encoded, and hashed without a key.
fn forms(value: &str) -> Vec<Vec<u8>> {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let hex = |bytes: &[u8]| crate::auth::secret::hex(bytes).into_bytes();
    let whole = json!({"name": "key", "value": value}).to_string();
    let digests = [value, &whole].map(|text| crate::auth::secret::hash(text).into_bytes());
    let mut forms = vec![
        value.as_bytes().to_vec(),
        STANDARD.encode(value).trim_end_matches('=').as_bytes().to_vec(),
        URL_SAFE_NO_PAD.encode(value).into_bytes(),
        hex(value.as_bytes()),
        value.bytes().rev().collect(),
    ];
    forms.extend(digests);
    forms
}

fn has(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// What was logged.
#[derive(Clone, Default)]
pub(in crate::tests) struct Log(pub(in crate::tests) Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_planted_value_is_nowhere() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (world, machine) = world().await;
    let mut answers = String::new();
    let mut heard = |answer: Answer| answers.push_str(&format!("{answer:?}\n"));
    let body = |value: &str| json!({"name": "key", "value": value});
    let with_key = |path: &str, body: &serde_json::Value| {
        world
            .request("POST", path)
            .header("authorization", format!("Bearer {}", world.key))
            .header("content-type", "application/json")
            .header("idempotency-key", path)
            .body(Body::from(body.to_string()))
            .unwrap()
    };
    heard(world.send(with_key("/v1/secrets", &body(PLANTED))).await);
    heard(world.send(with_key("/v1/secrets", &body(PLANTED))).await);
    heard(world.post("/v1/secrets", body(PLANTED)).await);
    heard(world.post("/v1/secrets", json!({"name": PLANTED, "value": PLANTED})).await);
    heard(world.post("/v1/secrets", json!({"name": "key", PLANTED: PLANTED})).await);
    heard(world.post("/v1/secrets", json!({"name": "key", "value": {PLANTED: PLANTED}})).await);
    heard(world.post("/v1/keys", json!({"name": "x"})).await);
    let policy = injecting(&[("key", "a.example")]);
    let uses = json!([{"secret": "key", "env": "KEY"}]);
    heard(world.post("/v1/agents", json!({"name": "a", "policy": policy, "secrets": uses})).await);
    heard(put(&world, "/v1/agents/a/policy", injecting(&[])).await);
    heard(world.send(with_key("/v1/secrets/key/rotate", &json!({"value": PLANTED}))).await);
    heard(put(&world, "/v1/secrets/key/hosts", json!({"hosts": []})).await);
    heard(delete(&world, "/v1/secrets/key").await);
    set(&world, "second", PLANTED, &["a.example"]).await;
    heard(delete(&world, "/v1/secrets/second").await);
    let agent = world.get("/v1/agents/a").await.expect(200)["id"].as_str().unwrap().to_owned();
    let (_, told) = super::delivery::told(&world, &machine, &agent).await;
    assert_eq!(told[0].value.expose(), PLANTED, "it was there to be found");
    for path in ["/v1/secrets", "/v1/secrets/key", "/v1/events?limit=200", "/v1/agents", "/v1/openapi.json"] {
        heard(world.get(path).await);
    }
    heard(world.call_as(&machine.token, "GET", "/node/v1/desired", None).await);
    heard(world.call_as(&world.key, "POST", "/v1/data-key/rotate", None).await);
    heard(world.call_as(&world.key, "POST", "/v1/wrapping-key/rotate", None).await);

    let log = log.0.lock().unwrap().clone();
    assert!(has(&log, b"/v1/secrets"), "the log was heard");
    let mut files = 0;
    let mut places = vec![("the answers".to_owned(), answers.into_bytes()), ("the log".to_owned(), log)];
    for entry in std::fs::read_dir(&world.config.data).unwrap() {
        let path = entry.unwrap().path();
        places.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        files += 1;
    }
    let least = if world.server().is_some() { 2 } else { 4 };
    assert!(files >= least, "both keys, and the database with its log where it is a file");
    let keys = std::fs::read_to_string(world.config.secrets_key()).unwrap();
    let wrapping = keys.lines().find_map(|line| line.strip_prefix("cofk_")).unwrap().to_owned();
    for (place, bytes) in &places {
        for form in forms(PLANTED) {
            let found = has(bytes, &form);
            assert!(!found, "{place} has {:?}", String::from_utf8_lossy(&form));
        }
        let own = place.ends_with("secrets.key");
        assert_eq!(has(bytes, wrapping.as_bytes()), own, "the key that wraps is in its file alone: {place}");
    }
}

/// What is deleted or replaced is not left in the database's file for whoever gets the key later.
#[tokio::test]
async fn ciphertexts_that_went_are_overwritten() {
    let (mut world, _machine) = world().await;
    if world.server().is_some() {
        return eprintln!("skipped: a server keeps what was there until it cleans up by itself");
    }
    let long = "x".repeat(16_000);
    set(&world, "key", &long, &[]).await;
    set(&world, "other", &long, &[]).await;
    let id = world.get("/v1/secrets/key").await.expect(200)["id"].as_str().unwrap().to_owned();
    let ciphertext = async |world: &World, secret: &str| {
        let made = json!({"policy": injecting(&[(secret, "a.example")])});
        let agent = world.post("/v1/agents", made).await.expect(201)["id"].as_str().unwrap().to_owned();
        let delivery = world.app.store.secrets_of(agent.parse().unwrap()).await.unwrap();
        delete(world, &format!("/v1/agents/{agent}")).await.expect(200);
        delivery.secrets[0].value.ciphertext.clone()
    };
    let (rotated, deleted) = (ciphertext(&world, "key").await, ciphertext(&world, "other").await);
    // A page of the database has 4096 bytes: a piece that lies within one wherever it begins.
    let pieces = |bytes: &[u8]| bytes.chunks(512).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let found = async |world: &mut World| {
        // Folds what was written ahead into the database's own file.
        world.app.store.close().await;
        let file = std::fs::read(world.config.database()).unwrap();
        world.restart().await;
        [&rotated, &deleted].map(|bytes| pieces(bytes).iter().filter(|piece| has(&file, piece)).count())
    };
    assert!(found(&mut world).await.iter().all(|found| *found > 20), "they were there to be found");
    world.post(&format!("/v1/secrets/{id}/rotate"), json!({"value": "short"})).await.expect(200);
    delete(&world, "/v1/secrets/other").await.expect(204);
    assert_eq!(found(&mut world).await, [0, 0]);
}
