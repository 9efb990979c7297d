//! Who is shown to whom, and who is verified.

use super::*;
use model::Code;
use model::egress::Outcome;
use time::OffsetDateTime;

const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

#[tokio::test]
async fn an_agent_is_shown_a_server_under_its_own_authority_and_the_log_tells() {
    let mut terminated = Terminated::new(bearer()).await;
    let sent = get("/v1", &format!("X-Odd-Case: y\r\nAuthorization: Bearer {PLACEHOLDER}\r\n"));
    let (heard, answered) = terminated.exchange(&sent, OK).await;
    let expected = get(
        "/v1",
        &format!("X-Odd-Case: y\r\naccept-encoding: identity\r\nauthorization: Bearer {VALUE}\r\n"),
    );
    let lines = |text: &str| {
        let mut lines: Vec<_> = text.to_lowercase().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&heard), lines(&expected));
    assert!(heard.contains("X-Odd-Case: y"), "{heard}");
    assert_eq!(answered, OK);
    let record = terminated.world.record().await;
    assert_eq!((record.host.as_str(), record.port), (NAME, Some(443)));
    assert_eq!((record.outcome, record.by.as_str()), (Outcome::Passed, "rule 1"));
    assert_eq!(record.protocol, Some(model::policy::Protocol::Tls));
    assert_eq!(record.credentials, ["one".parse().unwrap()]);
    assert!(record.address.is_some() && record.sent > 300 && record.received > 300);

    // Another host of the same policy is not looked into.
    let server = terminated.world.host("other.example.com", 443).await;
    let mut client = terminated.world.client("other.example.com", 443).await;
    let hello = client_hello(Some("other.example.com"));
    client.write_all(&hello).await.unwrap();
    assert_eq!(read(&mut accept(&server).await, hello.len()).await, hello);
}

#[tokio::test]
async fn a_server_that_is_not_verified_hears_nothing() {
    let terminated = Terminated::new(bearer()).await;
    let listener = terminated.world.host(NAME, 443).await;
    let unknown = Signer::new("unknown");
    // Of the same name as the one that is known.
    let pretends = Signer::new("known");
    let long_ago = OffsetDateTime::UNIX_EPOCH;
    let same = |_: &mut CertificateParams| ();
    let cases = [
        (unknown.server(&[NAME], &[], same), "no known authority"),
        (pretends.server(&[NAME], &[], same), "certificate"),
        // That of the agent signs for nobody but the gate.
        (terminated.own.server(&[NAME], &[], same), "no known authority"),
        (terminated.known.server(&["other.example.com"], &[], same), "another name"),
        (terminated.known.server(&[NAME], &[], |params| params.not_after = long_ago), "expired"),
    ];
    for (acceptor, why) in cases {
        let request = get("/", &format!("Authorization: Bearer {PLACEHOLDER}\r\n"));
        let (answer, heard) = tokio::join!(
            async {
                let mut client = terminated.client(NAME).await;
                client.write_all(request.as_bytes()).await.unwrap();
                message(&mut client).await
            },
            async { acceptor.accept(accept(&listener).await).await }
        );
        assert!(heard.is_err());
        let (status, problem) = problem(&answer);
        assert_eq!(status, 502);
        assert!(problem.detail.contains(why) && problem.detail.contains(NAME), "{problem:?}");
    }
    let mut world = terminated.world;
    let mut failed = world.outcome().await;
    assert_eq!(failed.0, Outcome::Failed);
    failed = world.outcome().await;
    assert_eq!(failed, (Outcome::Failed, "rule 1".to_owned()));
}

#[tokio::test]
async fn what_is_not_there_is_told_in_the_protocol() {
    let terminated = Terminated::new(bearer()).await;
    terminated.world.name(NAME, &["93.184.216.34"]);
    terminated.world.route("93.184.216.34:443", Route::Fail(model::gate_api::Unconnected::Refused));
    let mut client = terminated.client(NAME).await;
    client.write_all(get("/", "").as_bytes()).await.unwrap();
    let (status, problem) = problem(&message(&mut client).await);
    assert_eq!((status, problem.code), (503, Code::Unavailable));
    assert!(problem.detail.contains("refused"), "{problem:?}");
}

#[tokio::test]
async fn the_name_is_the_one_of_the_address() {
    let terminated = Terminated::new(injecting(json!([
        {"secret": "one", "host": NAME, "bearer": true},
        {"secret": "one", "host": "www.example.com", "bearer": true},
    ])))
    .await;
    let server = terminated.host(NAME).await;
    let mut client = terminated.world.client_soon(NAME, 443).await;
    client.write_all(&client_hello(Some("www.example.com"))).await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), ALERT);
    assert!(terminated.world.dialled().is_empty());
    // Without a word it is the name.
    let mut config = terminated.own.client(&[]);
    config.enable_sni = false;
    let (client, mut upstream) = tokio::join!(terminated.shake(NAME, config), server.accept());
    let mut client = client.unwrap();
    client.write_all(get("/", "").as_bytes()).await.unwrap();
    assert!(message(&mut upstream).await.contains(VALUE));
    // Who does not trust the authority hears nothing.
    let stranger = Signer::new("own");
    let (client, upstream) = tokio::join!(terminated.shake(NAME, stranger.client(&[])), server.accept());
    assert!(client.is_err());
    assert_eq!(ending(&mut { upstream }).await, "");
    // Nor who wants to speak something else.
    let (client, upstream) =
        tokio::join!(terminated.shake(NAME, terminated.own.client(&["imap"])), accept(&server.listener));
    assert!(client.is_err());
    drop(upstream);
}

#[tokio::test]
async fn nothing_passes_without_an_authority_or_without_roots() {
    let mut world = World::new(bearer()).await;
    let _server = world.host(NAME, 443).await;
    let mut client = world.client(NAME, 443).await;
    client.write_all(&client_hello(Some(NAME))).await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), ALERT);
    // One that cannot be read is none.
    let own = Signer::new("own");
    world.authority = Some(Authority { key: SecretValue::new("x".into()), ..own.authority() });
    world.set(Some(bearer())).await;
    let mut client = world.client(NAME, 443).await;
    client.write_all(&client_hello(Some(NAME))).await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), ALERT);
    assert!(world.dialled().is_empty());

    let mut world = World::with(settings(), None, &[]).await;
    world.authority = Some(own.authority());
    world.set(Some(bearer())).await;
    let terminated = Terminated { known: Signer::new("known"), own, world };
    let mut client = terminated.client(NAME).await;
    client.write_all(get("/", "").as_bytes()).await.unwrap();
    let (status, problem) = problem(&message(&mut client).await);
    assert_eq!(status, 503);
    assert!(problem.detail.contains("No authorities"), "{problem:?}");
    assert!(terminated.world.dialled().is_empty());
}

#[tokio::test]
async fn a_literal_address_is_not_looked_into() {
    let policy = with_rules(
        json!([{"action": "allow", "host": "93.184.216.0/24"}, {"action": "allow", "host": NAME}]),
        json!([{"secret": "one", "host": NAME, "bearer": true}]),
    );
    let terminated = Terminated::new(policy).await;
    let server = terminated.host(NAME).await;
    resolve_soon(&terminated.world.doors, NAME).await;
    let mut client = terminated.world.client_at("93.184.216.34:443").await;
    let hello = client_hello(Some(NAME));
    client.write_all(&hello).await.unwrap();
    assert_eq!(read(&mut accept(&server.listener).await, hello.len()).await, hello);
}

#[tokio::test]
async fn certificates_are_made_once_for_a_name() {
    let terminated =
        Terminated::new(injecting(json!([{"secret": "one", "host": "*.example.com", "bearer": true}]))).await;
    let _api = terminated.host(NAME).await;
    let _www = terminated.host("www.example.com").await;
    let shown = async |name| {
        let client = terminated.client(name).await;
        client.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = shown(NAME).await;
    assert!(first == shown(NAME).await && first != shown("www.example.com").await);
}
