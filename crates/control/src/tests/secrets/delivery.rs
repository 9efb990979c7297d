//! What a node is told: sealed to who asked, of its own agents alone, once for each request.

use super::super::world::{Answer, Machine, World, public};
use super::{delete, injecting, put, set, world};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use model::node_api::{AgentSecret, AgentSecrets, SealedSecrets};
use model::secret::PLACEHOLDER_PREFIX;
use model::token::SealAssertion;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use serde_json::json;

struct Request {
    claims: SealAssertion,
    private: HpkePrivateKey,
}

fn request(world: &World, machine: &Machine, agent: &str) -> Request {
    let (HpkePublicKey(public), private) = SUITE.generate_key_pair().unwrap();
    let now = model::clock::Clock::now(&*world.clock).unix_timestamp();
    let claims = SealAssertion {
        iss: machine.id,
        aud: SealAssertion::audience(&machine.installation),
        sub: agent.parse().unwrap(),
        seal: URL_SAFE_NO_PAD.encode(public),
        jti: model::EventId::new().to_string(),
        iat: now,
        exp: now + 60,
    };
    Request { claims, private }
}

fn signed(machine: &Machine, claims: &SealAssertion) -> String {
    let der = machine.pair.to_pkcs8v1().unwrap();
    let key = EncodingKey::from_ed_der(der.as_ref());
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key).unwrap()
}

async fn ask(world: &World, machine: &Machine, agent: &str, assertion: &str) -> Answer {
    let path = format!("/node/v1/agents/{agent}/secrets");
    world.call_as(&machine.token, "POST", &path, Some(json!({"assertion": assertion}))).await
}

fn open(
    sealed: &SealedSecrets,
    agent: &str,
    revision: u64,
    private: &HpkePrivateKey,
) -> Option<AgentSecrets> {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let aad = SealedSecrets::aad(agent.parse().unwrap(), revision);
    let enc = EncapsulatedSecret(decode(&sealed.enc));
    let ciphertext = decode(&sealed.ciphertext);
    let plain = SUITE.open(&enc, SealedSecrets::INFO, aad.as_bytes(), &ciphertext, private).ok()?;
    Some(serde_json::from_slice(&plain).unwrap())
}

/// A good request.
pub(in super::super) fn assertion(world: &World, machine: &Machine, agent: &str) -> String {
    signed(machine, &request(world, machine, agent).claims)
}

/// What the node is told now.
pub(in super::super) async fn told(world: &World, machine: &Machine, agent: &str) -> (u64, Vec<AgentSecret>) {
    let request = request(world, machine, agent);
    let answer = ask(world, machine, agent, &signed(machine, &request.claims)).await.expect(200);
    let sealed: SealedSecrets = serde_json::from_value(answer).unwrap();
    let secrets =
        open(&sealed, agent, sealed.revision, &request.private).expect("sealed to this key").secrets;
    (sealed.revision, secrets)
}

fn shown(secrets: &[AgentSecret]) -> Vec<(&str, &str, bool)> {
    let each = |secret: &AgentSecret| secret.placeholder.is_some();
    secrets.iter().map(|secret| (secret.name.as_str(), secret.value.expose(), each(secret))).collect()
}

#[tokio::test]
async fn a_node_is_told_what_its_agent_has_now() {
    let (world, machine) = world().await;
    set(&world, "key", "first value", &["a.example"]).await;
    set(&world, "file", "of a file\n", &[]).await;
    set(&world, "both", "of both", &[]).await;
    set(&world, "other", "of nobody", &[]).await;
    let policy = injecting(&[("key", "a.example"), ("both", "b.example")]);
    let uses = json!([{"secret": "file", "file": "f"}, {"secret": "both", "env": "BOTH"}]);
    let made = json!({"name": "a", "policy": policy, "secrets": uses});
    let agent = world.post("/v1/agents", made).await.expect(201)["id"].as_str().unwrap().to_owned();
    let (revision, secrets) = told(&world, &machine, &agent).await;
    assert_eq!(revision, 1);
    let expected = [("both", "of both", true), ("file", "of a file\n", false), ("key", "first value", true)];
    assert_eq!(shown(&secrets), expected);
    let placeholders: Vec<&str> = secrets.iter().filter_map(|secret| secret.placeholder.as_deref()).collect();
    for placeholder in &placeholders {
        let random = placeholder.strip_prefix(PLACEHOLDER_PREFIX).unwrap();
        assert!(random.len() == 32 && random.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')));
    }
    assert_ne!(placeholders[0], placeholders[1]);

    // Another policy: the placeholder of what stays is the same, and also that of what comes back.
    put(&world, "/v1/agents/a/policy", injecting(&[("key", "a.example"), ("other", "c.example")]))
        .await
        .expect(200);
    let (revision, changed) = told(&world, &machine, &agent).await;
    let expected = [
        ("both", "of both", false),
        ("file", "of a file\n", false),
        ("key", "first value", true),
        ("other", "of nobody", true),
    ];
    assert_eq!((revision, shown(&changed)), (2, expected.to_vec()));
    assert_eq!(changed[2].placeholder, secrets[2].placeholder);
    put(&world, "/v1/agents/a/policy", policy).await.expect(200);
    world.post("/v1/secrets/key/rotate", json!({"value": "second value"})).await.expect(200);
    let (revision, again) = told(&world, &machine, &agent).await;
    assert_eq!((revision, again[2].value.expose()), (4, "second value"));
    assert_eq!(
        (&again[0].placeholder, &again[2].placeholder),
        (&secrets[0].placeholder, &secrets[2].placeholder)
    );

    // Another agent has others in place of the same secrets.
    let made = json!({"name": "b", "policy": injecting(&[("key", "a.example")])});
    let other = world.post("/v1/agents", made).await.expect(201)["id"].as_str().unwrap().to_owned();
    assert_ne!(told(&world, &machine, &other).await.1[0].placeholder, secrets[2].placeholder);
    let none = world.agent("none").await;
    assert_eq!(told(&world, &machine, &none).await, (0, Vec::new()));
}

#[tokio::test]
async fn an_answer_opens_with_the_right_key_for_the_right_agent_alone() {
    let (world, machine) = world().await;
    set(&world, "key", "the value", &[]).await;
    let made = json!({"policy": injecting(&[("key", "a.example")])});
    let agent = world.post("/v1/agents", made).await.expect(201)["id"].as_str().unwrap().to_owned();
    let own = request(&world, &machine, &agent);
    let answer = ask(&world, &machine, &agent, &signed(&machine, &own.claims)).await.expect(200);
    assert!(!answer.to_string().contains("the value"));
    let sealed: SealedSecrets = serde_json::from_value(answer).unwrap();
    assert!(open(&sealed, &agent, 1, &own.private).is_some());
    assert!(open(&sealed, &agent, 1, &request(&world, &machine, &agent).private).is_none(), "another key");
    assert!(open(&sealed, &agent, 2, &own.private).is_none(), "another revision");
    let other = model::AgentId::new().to_string();
    assert!(open(&sealed, &other, 1, &own.private).is_none(), "another agent");
}

#[tokio::test]
async fn a_request_that_is_not_right_in_everything_gets_nothing() {
    let (world, machine) = world().await;
    let other = Machine::enrolled(&world, "node-2", 1).await;
    set(&world, "key", "the value", &[]).await;
    let made = json!({"name": "a", "policy": injecting(&[("key", "a.example")])});
    let agent = world.post("/v1/agents", made).await.expect(201)["id"].as_str().unwrap().to_owned();
    let second = world.agent("second").await;
    let good = request(&world, &machine, &agent).claims;
    let now = good.iat;
    let with = |change: &dyn Fn(&mut SealAssertion)| {
        let mut claims = request(&world, &machine, &agent).claims;
        change(&mut claims);
        signed(&machine, &claims)
    };
    let bad = [
        ("no assertion", "x".to_owned()),
        ("too long", "x".repeat(5000)),
        ("another key", signed(&other, &good)),
        ("another node's word", with(&|claims| claims.iss = other.id)),
        ("for callback tokens", with(&|claims| claims.aud = machine.installation.clone())),
        ("for images", with(&|claims| claims.aud = format!("{}/images", machine.installation))),
        ("another installation", with(&|claims| claims.aud = "other/secrets".to_owned())),
        ("another agent", with(&|claims| claims.sub = second.parse().unwrap())),
        ("over", with(&|claims| (claims.iat, claims.exp) = (now - 60, now))),
        ("too long a life", with(&|claims| claims.exp = now + 61)),
        ("of the future", with(&|claims| (claims.iat, claims.exp) = (now + 31, now + 60))),
        ("backwards", with(&|claims| claims.exp = i64::MIN)),
        ("no jti", with(&|claims| claims.jti = String::new())),
        ("a long jti", with(&|claims| claims.jti = "x".repeat(129))),
        ("no key", with(&|claims| claims.seal = String::new())),
        ("a short key", with(&|claims| claims.seal = "AAAA".to_owned())),
        ("a key of low order", with(&|claims| claims.seal = URL_SAFE_NO_PAD.encode([0; 32]))),
        ("signed by nobody", {
            let parts: Vec<String> = signed(&machine, &good).split('.').map(str::to_owned).collect();
            let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
            format!("{header}.{}.", parts[1])
        }),
        ("signed with the public key", {
            let key = EncodingKey::from_secret(public(&machine.pair).as_bytes());
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &good, &key).unwrap()
        }),
    ];
    for (what, assertion) in bad {
        let answer = ask(&world, &machine, &agent, &assertion).await;
        assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{what}: {}", answer.json);
    }
    // By another node: of its own agents alone, whatever it shows.
    for assertion in
        [signed(&machine, &good), signed(&other, &SealAssertion { iss: other.id, ..good.clone() })]
    {
        assert_eq!(ask(&world, &other, &agent, &assertion).await.problem().0, "NOT_FOUND");
    }
    for nobody in ["x", "a", "agt_01h455vb4pex5vsknk084sn02q"] {
        assert_eq!(ask(&world, &machine, nobody, &signed(&machine, &good)).await.problem().0, "NOT_FOUND");
    }
    // A good one is answered, and once.
    let assertion = signed(&machine, &good);
    ask(&world, &machine, &agent, &assertion).await.expect(200);
    assert_eq!(ask(&world, &machine, &agent, &assertion).await.problem().0, "UNAUTHENTICATED");
    world.clock.forward(time::Duration::seconds(59));
    assert_eq!(ask(&world, &machine, &agent, &assertion).await.problem().0, "UNAUTHENTICATED");
    delete(&world, "/v1/agents/a").await.expect(200);
    let late = request(&world, &machine, &agent).claims;
    assert_eq!(ask(&world, &machine, &agent, &signed(&machine, &late)).await.problem().0, "WRONG_STATE");
}

#[tokio::test]
async fn a_delivery_is_told_once_for_each_revision_and_not_too_often() {
    let (world, machine) = world().await;
    set(&world, "key", "the value", &[]).await;
    let made = json!({"policy": injecting(&[("key", "a.example")])});
    let agent = world.post("/v1/agents", made).await.expect(201)["id"].as_str().unwrap().to_owned();
    let events = async || {
        let events = world.get(&format!("/v1/events?subject={agent}&limit=200")).await.expect(200);
        let events = events["items"].as_array().unwrap().clone();
        events.into_iter().filter(|event| event["kind"] == "secret.delivered").collect::<Vec<_>>()
    };
    for _ in 0..3 {
        told(&world, &machine, &agent).await;
    }
    let once = events().await;
    assert_eq!(once.len(), 1);
    assert_eq!(once[0]["detail"], json!({"node": machine.id, "revision": 1, "secrets": ["key"]}));
    assert!(once[0]["actor"].as_str().unwrap().starts_with("nod_"));
    world.post("/v1/secrets/key/rotate", json!({"value": "another"})).await.expect(200);
    for _ in 0..27 {
        told(&world, &machine, &agent).await;
    }
    assert_eq!(events().await.len(), 2);
    let more = request(&world, &machine, &agent).claims;
    let assertion = signed(&machine, &more);
    assert_eq!(ask(&world, &machine, &agent, &assertion).await.problem().0, "TOO_MANY");
    // Who cannot sign uses up nothing.
    let other = world.agent("other").await;
    for _ in 0..40 {
        assert_eq!(ask(&world, &machine, &other, "x").await.problem().0, "UNAUTHENTICATED");
    }
    told(&world, &machine, &other).await;
    world.clock.forward(time::Duration::seconds(60));
    told(&world, &machine, &agent).await;
}
