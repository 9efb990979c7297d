//! Credentials that are taken away, and bodies that nobody takes.

use super::*;
use model::Code;

/// Says something through a WebSocket, both ways.
async fn goes_on(client: &mut client::TlsStream<TcpStream>, upstream: &mut server::TlsStream<TcpStream>) {
    let said = frame(0x81, b"still");
    client.write_all(&said).await.unwrap();
    let mut heard = vec![0; said.len()];
    in_time(upstream.read_exact(&mut heard)).await.unwrap();
    upstream.write_all(b"here").await.unwrap();
    let mut heard = [0; 4];
    in_time(client.read_exact(&mut heard)).await.unwrap();
}

#[tokio::test]
async fn what_was_opened_with_one_ends_when_it_is_taken_away() {
    let two = |first: &str| {
        injecting(json!([
            {"secret": first, "host": NAME, "bearer": true},
            {"secret": "two", "host": "www.example.com", "bearer": true},
        ]))
    };
    let narrowed = injecting(json!([{"secret": "one", "host": NAME, "bearer": true, "paths": ["/v1/**"]}]));
    let all = || vec![credential("one", VALUE, PLACEHOLDER), credential("two", "another value", ANOTHER)];
    for (policy, credentials) in [
        // Rotated.
        (None, vec![credential("one", "sk-another-value", PLACEHOLDER), all().remove(1)]),
        // Removed.
        (None, vec![all().remove(1)]),
        // Another one in its place, which is there already.
        (Some(two("two")), all()),
        // Only for other requests.
        (Some(narrowed), all()),
        (Some(injecting(json!([]))), all()),
    ] {
        let mut terminated = Terminated::with(two("one"), Some(all())).await;
        let server = terminated.host(NAME).await;
        let (mut client, mut upstream) = terminated.web_socket(&server).await;
        // The same again cuts nothing, nor does what is about something else.
        terminated.credentials(all()).await;
        terminated.credentials(vec![credential("two", "a new value", ANOTHER), all().remove(0)]).await;
        terminated.world.set(Some(two("one"))).await;
        goes_on(&mut client, &mut upstream).await;
        terminated.credentials(credentials).await;
        if let Some(policy) = policy {
            terminated.world.set(Some(policy)).await;
        }
        ending(&mut client).await;
        assert_eq!(ending(&mut upstream).await, "");
        let end = loop {
            if let Some(end) = terminated.world.record().await.end {
                break end;
            }
        };
        assert_eq!(end, "refused by a credential that was taken away");
    }
}

#[tokio::test]
async fn an_answer_to_a_request_without_it_goes_on() {
    let policy = injecting(json!([{"secret": "one", "host": NAME, "bearer": true, "methods": ["POST"]}]));
    let mut terminated = Terminated::new(policy).await;
    let server = terminated.host(NAME).await;
    let (mut client, mut upstream) = terminated.both(&server).await;
    client.write_all(get("/", "").as_bytes()).await.unwrap();
    message(&mut upstream).await;
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await.unwrap();
    head(&mut client).await;
    terminated.credentials(vec![]).await;
    // Heard behind it.
    terminated.world.tell(&ToGate::Roots { pem: terminated.known.pem() }).await;
    let other = terminated.world.another(allow("www.example.com")).await;
    resolve_soon(&other, "www.example.com").await;
    upstream.write_all(b"body").await.unwrap();
    let mut body = [0; 4];
    in_time(client.read_exact(&mut body)).await.unwrap();
}

#[tokio::test]
async fn bodies_take_their_places_until_the_server_has_them() {
    let policy = injecting(json!([{"secret": "one", "host": NAME, "body": "key"}]));
    let terminated = Terminated::new(policy).await;
    let server = terminated.host(NAME).await;
    let local = server.listener.local_addr().unwrap();
    terminated.world.route("93.184.216.34:443", Route::Narrow(local));
    let large = post("/", "application/x-www-form-urlencoded", &"x".repeat(1 << 20));
    let mut stuck = Vec::new();
    for _ in 0..crate::limits::PUT_BODIES_PER_AGENT {
        let (mut client, mut upstream) = terminated.both(&server).await;
        client.write_all(large.as_bytes()).await.unwrap();
        // The head came, so that the body is held, and the rest nobody takes.
        head(&mut upstream).await;
        stuck.push((client, upstream));
    }
    let (mut client, mut upstream) = terminated.both(&server).await;
    let small = post("/", "application/x-www-form-urlencoded", "a=b");
    client.write_all(small.as_bytes()).await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(100), upstream.read_u8()).await;
    assert!(waits.is_err(), "there was a place");
    // One is taken now.
    let (_client, taken) = stuck.first_mut().unwrap();
    let mut all = vec![0; (1 << 20) + 1 + "&key=".len()];
    in_time(taken.read_exact(&mut all)).await.unwrap();
    assert!(message(&mut upstream).await.contains("a=b&key="));
    // And one goes away.
    let (mut client, mut upstream) = terminated.both(&server).await;
    client.write_all(large.as_bytes()).await.unwrap();
    head(&mut upstream).await;
    let (client, _) = terminated.both(&server).await;
    drop(client);
}

#[tokio::test]
async fn one_agent_leaves_others_places_to_be_looked_into() {
    let few = crate::egress::Settings { flows: 8 * crate::limits::LOOKED_INTO_SHARE, ..settings() };
    let mut terminated = Terminated::new(bearer()).await;
    terminated.world = World::with(few, None, &[]).await;
    terminated.world.authority = Some(terminated.own.authority());
    terminated.world.tell(&ToGate::Roots { pem: terminated.known.pem() }).await;
    terminated.credentials(vec![credential("one", VALUE, PLACEHOLDER)]).await;
    terminated.world.set(Some(bearer())).await;
    let server = terminated.host(NAME).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(terminated.both(&server).await);
    }
    let mut client = terminated.world.client_soon(NAME, 443).await;
    client.write_all(&client_hello(Some(NAME))).await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x31]);
    // Another agent has its own.
    let id = model::AgentId::new();
    let own = Some(terminated.own.authority());
    let described = model::gate_api::GateAgent { authority: own, ..described(id, Some(bearer())) };
    terminated.world.tell(&ToGate::Agents { set: vec![described], gone: Vec::new() }).await;
    let doors = give_doors(&terminated.world.sockets, id);
    let address = resolve_soon(&doors, NAME).await;
    let stream = connect(&doors, std::net::SocketAddr::new(address, 443)).await;
    let config = Arc::new(terminated.own.client(&["http/1.1"]));
    let connecting = TlsConnector::from(config).connect(ServerName::try_from(NAME).unwrap(), stream);
    let (client, _upstream) = tokio::join!(connecting, server.accept());
    let mut client = client.unwrap();
    client.write_all(get("/", "").as_bytes()).await.unwrap();
    // Whose credentials are not there yet.
    assert_eq!(problem(&message(&mut client).await).1.code, Code::Unavailable);
    // One that is free again is for who comes next.
    drop(open.pop());
    loop {
        let shaking = terminated.shake(NAME, terminated.own.client(&["http/1.1"]));
        match tokio::join!(shaking, accept(&server.listener)) {
            (Ok(_), _) => break,
            (Err(_), _) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}
