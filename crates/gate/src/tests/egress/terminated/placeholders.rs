//! Placeholders pass nowhere: not those of this agent, and not those of others.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::Code;
use model::egress::Outcome;

#[tokio::test]
async fn one_in_the_wrong_place_is_refused_in_a_head() {
    let terminated = Terminated::new(bearer()).await;
    let every_byte: String = PLACEHOLDER.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let in_base64 = STANDARD.encode(format!("user:{PLACEHOLDER}"));
    for request in [
        get("/", &format!("X-Api-Key: {PLACEHOLDER}\r\n")),
        get("/", &format!("Cookie: a=b; session={PLACEHOLDER}\r\n")),
        get("/", &format!("{PLACEHOLDER}: x\r\n")),
        get(&format!("/{PLACEHOLDER}/x"), ""),
        get(&format!("/?key={PLACEHOLDER}"), ""),
        get(&format!("/?key={every_byte}"), ""),
        get("/", &format!("X-Basic: {in_base64}\r\n")),
        get("/", &format!("Authorization: Bearer {PLACEHOLDER}\r\nX-Api-Key: {PLACEHOLDER}\r\n")),
        // Another one in the right place, alone or beside.
        get("/", &format!("Authorization: Bearer {ANOTHER}\r\n")),
        get("/", &format!("Authorization: Bearer {PLACEHOLDER}, {ANOTHER}\r\n")),
        get("/", &format!("Authorization: Bearer {PLACEHOLDER}\r\nAuthorization: Bearer {ANOTHER}\r\n")),
        get("/", &format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("x:{ANOTHER}")))),
        // Not put together of what is around one.
        get(
            "/",
            &format!("Authorization: Bearer cofferdam-place{PLACEHOLDER}holder-{PLACEHOLDER}, {ANOTHER}\r\n"),
        ),
    ] {
        let (status, problem) = terminated.refused(&request).await;
        assert_eq!((status, problem.code), (403, Code::Forbidden), "{request}");
        assert!(!problem.detail.contains("cofferdam-"), "{problem:?}");
    }
    let mut world = terminated.world;
    let (outcome, by) = world.outcome().await;
    assert_eq!(outcome, Outcome::Denied);
    assert!(by.contains("placeholder"), "{by}");
}

#[tokio::test]
async fn one_in_a_body_goes_no_further() {
    let terminated = Terminated::new(bearer()).await;
    let server = terminated.host(NAME).await;
    for body in [PLACEHOLDER.to_owned(), ANOTHER.to_owned(), STANDARD.encode(format!("ab{PLACEHOLDER}"))] {
        let text = format!("before {body} after");
        // With all of it at once, and in two pieces wherever they are cut.
        for cut in [0, 7, 8, 17, 28] {
            let (mut client, mut upstream) = terminated.both(&server).await;
            let (first, second) = text.split_at(cut);
            let head = "POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
            client.write_all(head.as_bytes()).await.unwrap();
            if cut > 0 {
                client.write_all(format!("{cut:x}\r\n{first}\r\n").as_bytes()).await.unwrap();
                // It went on, so that the second piece is one of its own.
                super::head(&mut upstream).await;
                let mut bytes = vec![0; first.len() + if cut < 16 { 5 } else { 6 }];
                in_time(upstream.read_exact(&mut bytes)).await.unwrap();
            }
            client
                .write_all(format!("{:x}\r\n{second}\r\n0\r\n\r\n", second.len()).as_bytes())
                .await
                .unwrap();
            let (status, _) = problem(&message(&mut client).await);
            assert_eq!(status, 403, "{body} {cut}");
            let heard = ending(&mut upstream).await;
            assert!(!heard.contains("after") && !heard.contains(&body[30..]), "{cut} {heard}");
        }
    }
    // Nor behind it.
    let (mut client, mut upstream) = terminated.both(&server).await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n0\r\nx: {PLACEHOLDER}\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    assert!(!ending(&mut upstream).await.contains(PLACEHOLDER));
}

#[tokio::test]
async fn one_in_a_web_socket_goes_no_further() {
    let mut terminated = Terminated::new(bearer()).await;
    let server = terminated.host(NAME).await;
    let (one, two) = PLACEHOLDER.as_bytes().split_at(15);
    let apart = [frame(0x01, one), frame(0x89, b"ping"), frame(0x80, two)].concat();
    for said in [
        frame(0x81, PLACEHOLDER.as_bytes()),
        frame(0x82, STANDARD.encode(ANOTHER).as_bytes()),
        apart,
        b"something else".to_vec(),
    ] {
        let (mut client, mut upstream) = terminated.web_socket(&server).await;
        // What is none passes.
        let before = frame(0x82, b"cofferdam-");
        client.write_all(&before).await.unwrap();
        let mut heard = vec![0; before.len()];
        in_time(upstream.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, before);
        client.write_all(&said).await.unwrap();
        ending(&mut client).await;
        assert_eq!(ending(&mut upstream).await, "");
    }
    loop {
        let record = terminated.world.record().await;
        if record.port.is_some() && record.outcome == Outcome::Denied {
            assert_eq!(record.by, "a placeholder where no credential is put");
            break;
        }
    }
}

#[tokio::test]
async fn none_passes_in_the_clear() {
    let terminated = Terminated::new(bearer()).await;
    let server = terminated.world.host(NAME, 80).await;
    // The credential is put into requests by TLS alone.
    for request in
        [get("/", &format!("Authorization: Bearer {PLACEHOLDER}\r\n")), get(&format!("/?{PLACEHOLDER}"), "")]
    {
        let mut client = terminated.world.client_soon(NAME, 80).await;
        client.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(problem(&message(&mut client).await).0, 403);
    }
    assert!(terminated.world.dialled().is_empty());
    let mut client = terminated.world.client_soon(NAME, 80).await;
    client.write_all(post("/", "text/plain", &format!("x{PLACEHOLDER}")).as_bytes()).await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(problem(&message(&mut client).await).0, 403);
    assert!(!ending(&mut upstream).await.contains("cofferdam-placeholder"));
    // What is none does.
    let mut client = terminated.world.client_soon(NAME, 80).await;
    client.write_all(post("/", "text/plain", "cofferdam-placeholder").as_bytes()).await.unwrap();
    let mut upstream = accept(&server).await;
    assert!(message(&mut upstream).await.ends_with("cofferdam-placeholder"));
}

#[tokio::test]
async fn another_host_gets_nothing() {
    // A server sends the agent elsewhere.
    let policy = injecting(json!([
        {"secret": "one", "host": NAME, "bearer": true, "paths": ["/v1/**"]},
        {"secret": "two", "host": "www.example.com", "bearer": true},
    ]));
    let both = vec![credential("one", VALUE, PLACEHOLDER), credential("two", "another value", ANOTHER)];
    let terminated = Terminated::with(policy, Some(both)).await;
    let away = format!(
        "HTTP/1.1 302 Found\r\nLocation: https://www.example.com/?t={VALUE}\r\nContent-Length: 0\r\n\r\n"
    );
    let sent = get("/v1/x", &format!("Authorization: Bearer {PLACEHOLDER}\r\n"));
    let (heard, answered) = terminated.exchange(&sent, &away).await;
    assert!(heard.contains(VALUE) && !answered.contains(VALUE), "{answered}");
    assert!(
        answered.contains(&format!("https://www.example.com/?t={}", "*".repeat(VALUE.len()))),
        "{answered}"
    );
    // It follows with what it sent first.
    let server = terminated.host("www.example.com").await;
    let (mut client, mut upstream) = tokio::join!(terminated.client("www.example.com"), server.accept());
    let follows =
        format!("GET / HTTP/1.1\r\nHost: www.example.com\r\nAuthorization: Bearer {PLACEHOLDER}\r\n\r\n");
    client.write_all(follows.as_bytes()).await.unwrap();
    assert_eq!(problem(&message(&mut client).await).0, 403);
    drop(client);
    assert_eq!(ending(&mut upstream).await, "");
    // Nor does another path of the same host.
    let elsewhere = get("/v2/x", &format!("Authorization: Bearer {PLACEHOLDER}\r\n"));
    assert_eq!(terminated.refused(&elsewhere).await.0, 403);
    let (heard, _) = terminated.exchange(&get("/v2/x", ""), OK).await;
    assert_eq!(heard, get("/v2/x", "accept-encoding: identity\r\n"));
}
