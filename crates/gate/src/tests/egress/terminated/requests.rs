//! Requests inside of TLS are decided on one by one, and none is hidden in another.

use super::*;
use model::Code;
use model::egress::Outcome;

#[tokio::test]
async fn no_request_is_for_another_host() {
    let terminated = Terminated::new(bearer()).await;
    let server = terminated.host(NAME).await;
    let (mut client, mut upstream) = terminated.both(&server).await;
    for _ in 0..3 {
        client.write_all(get("/a?b", "").as_bytes()).await.unwrap();
        assert!(message(&mut upstream).await.starts_with("GET /a?b HTTP/1.1\r\nHost: api.example.com\r\n"));
        upstream.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(message(&mut client).await, OK);
    }
    let other = "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
    client.write_all(other.as_bytes()).await.unwrap();
    let (status, refused) = problem(&message(&mut client).await);
    assert_eq!((status, refused.code), (403, Code::Forbidden));
    assert_eq!(ending(&mut upstream).await, "");
    for (request, status) in [
        (other, 403),
        ("GET https://www.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: api.example.com:8443\r\n\r\n", 403),
        ("GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: api.example.com\r\nHost: www.example.com\r\n\r\n", 400),
        ("CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n\r\n", 403),
    ] {
        assert_eq!(terminated.refused(request).await.0, status, "{request}");
    }
}

#[tokio::test]
async fn nothing_is_smuggled() {
    let terminated = Terminated::new(bearer()).await;
    let server = terminated.host(NAME).await;
    let body = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
    for headers in [
        "Content-Length: 54\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 54",
    ] {
        let (mut client, mut upstream) = terminated.both(&server).await;
        let request = format!("POST / HTTP/1.1\r\nHost: {NAME}\r\n{headers}\r\n\r\n{body}");
        client.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut upstream).await;
        assert!(!head.to_lowercase().contains("content-length") && head.contains("chunked"), "{head}");
        upstream.write_all(OK.as_bytes()).await.unwrap();
        assert!(ending(&mut client).await.starts_with("HTTP/1.1 200"));
        assert_eq!(ending(&mut upstream).await, "0\r\n\r\n");
    }
    for request in [
        "GET / HTTP/1.1\r\nHost : api.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example.com\r\n x: y\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SSH-2.0-x\r\n",
    ] {
        let (mut client, mut upstream) = terminated.both(&server).await;
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = ending(&mut client).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{request} {answer}");
        assert_eq!(ending(&mut upstream).await, "", "{request}");
    }
}

#[tokio::test]
async fn methods_and_paths_are_decided_on_and_a_change_cuts() {
    let only = |path: &str| {
        with_rules(
            json!([{"action": "allow", "host": NAME, "methods": ["GET"], "paths": [path], "protocol": "tls"}]),
            json!([]),
        )
    };
    let mut terminated = Terminated::new(only("/repos/**")).await;
    let server = terminated.host(NAME).await;
    let (mut client, mut upstream) = terminated.both(&server).await;
    for (method, path) in
        [("POST", "/repos/x"), ("GET", "/"), ("GET", "/repos/../x"), ("GET", "/repos/%2e%2e/x")]
    {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let (status, refused) = problem(&message(&mut client).await);
        assert_eq!((status, refused.code), (403, Code::Forbidden), "{method} {path}");
    }
    client.write_all(get("/repos/x", "").as_bytes()).await.unwrap();
    assert!(message(&mut upstream).await.starts_with("GET /repos/x HTTP/1.1\r\n"));
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx").await.unwrap();
    head(&mut client).await;
    terminated.world.set(Some(only("/other"))).await;
    ending(&mut client).await;
    assert_eq!(ending(&mut upstream).await, "");
    let outcomes = [terminated.world.outcome().await, terminated.world.outcome().await];
    assert!(outcomes.contains(&(Outcome::Denied, "preset none".to_owned())), "{outcomes:?}");
}

#[tokio::test]
async fn what_was_not_looked_into_is_cut_when_it_has_to_be() {
    let mut terminated = Terminated::new(allow(NAME)).await;
    let server = terminated.world.host(NAME, 443).await;
    let mut client = terminated.world.client_soon(NAME, 443).await;
    let hello = client_hello(Some(NAME));
    client.write_all(&hello).await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(read(&mut upstream, hello.len()).await, hello);
    terminated.world.set(Some(bearer())).await;
    assert!(rest(&mut client).await.is_none());
}

#[tokio::test]
async fn a_request_waits_for_a_person() {
    let egress = json!({
        "preset": "allowlist", "unknown": "hold",
        "inject": [{"secret": "one", "host": NAME, "bearer": true}],
    });
    let policy: Policy = serde_json::from_value(json!({"version": 1, "egress": egress})).unwrap();
    let mut terminated =
        Terminated::with(allow("unrelated.example.com"), Some(vec![credential("one", VALUE, PLACEHOLDER)]))
            .await;
    terminated.world.watch().await;
    terminated.world.set(Some(policy)).await;
    let server = terminated.host(NAME).await;
    let stream = terminated.world.client_soon(NAME, 443).await;
    let config = Arc::new(terminated.own.client(&[]));
    let asked = terminated.world.question().await;
    assert_eq!((asked.host.as_str(), asked.port), (NAME, 443));
    terminated.world.answer(&asked, true).await;
    let connecting = TlsConnector::from(config).connect(ServerName::try_from(NAME).unwrap(), stream);
    let (client, mut upstream) = tokio::join!(connecting, server.accept());
    let mut client = client.unwrap();
    client.write_all(get("/", "").as_bytes()).await.unwrap();
    assert!(message(&mut upstream).await.contains(VALUE));
}

#[tokio::test]
async fn bodies_stream_both_ways_whatever_their_size() {
    const SIZE: usize = 24 << 20;
    let terminated = Terminated::new(bearer()).await;
    let server = terminated.host(NAME).await;
    let (client, upstream) = terminated.both(&server).await;
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(upstream);
    let request = format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {SIZE}\r\n\r\n");
    to_client.write_all(request.as_bytes()).await.unwrap();
    assert!(head(&mut from_server).await.contains(VALUE));
    // The answer begins before the request ends, and each piece arrives before the next is sent.
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
    to_server.write_all(answer.as_bytes()).await.unwrap();
    assert!(head(&mut from_client).await.starts_with("HTTP/1.1 200"));
    to_client.write_all(b"first").await.unwrap();
    let mut first = [0; 5];
    in_time(from_server.read_exact(&mut first)).await.unwrap();
    to_server.write_all(b"first").await.unwrap();
    in_time(from_client.read_exact(&mut first)).await.unwrap();
    let much: Vec<u8> = (0..SIZE - 5).map(|at| (at % 251) as u8).collect();
    let mut came = [vec![0; SIZE - 5], vec![0; SIZE - 5]];
    let [at_server, at_client] = &mut came;
    let all = async {
        tokio::try_join!(
            // TLS keeps back what its socket does not take at once.
            async { to_client.write_all(&much).await.and(to_client.flush().await) },
            async { from_server.read_exact(at_server).await.map(drop) },
            async { to_server.write_all(&much).await.and(to_server.flush().await) },
            async { from_client.read_exact(at_client).await.map(drop) },
        )
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.unwrap().unwrap();
    assert!(came[0] == much && came[1] == much);
}

#[tokio::test]
async fn web_sockets_pass_and_other_protocols_are_not_agreed_on() {
    let terminated = Terminated::new(bearer()).await;
    let server = terminated.host(NAME).await;
    let (mut client, mut upstream) = terminated.both(&server).await;
    let upgrade =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
    client.write_all(get("/ws", upgrade).as_bytes()).await.unwrap();
    let heard = message(&mut upstream).await;
    assert!(heard.contains(VALUE) && heard.contains("Upgrade: websocket"), "{heard}");
    assert!(!heard.contains("deflate"), "{heard}");
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    upstream.write_all(format!("{switching}first {VALUE}").as_bytes()).await.unwrap();
    assert_eq!(head(&mut client).await, switching);
    let mut bytes = vec![0; 6 + VALUE.len()];
    in_time(client.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), format!("first {}", "*".repeat(VALUE.len())));
    let said = frame(0x81, b"GET / HTTP/1.1\r\nHost: other\r\n\r\n");
    client.write_all(&said).await.unwrap();
    let mut heard = vec![0; said.len()];
    in_time(upstream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, said);
    // Nobody waits because an answer ends as the value begins.
    upstream.write_all(b"yes").await.unwrap();
    let mut bytes = [0; 3];
    in_time(client.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"yes");
    client.shutdown().await.unwrap();
    assert_eq!(ending(&mut upstream).await, "");
    drop(upstream);
    assert_eq!(ending(&mut client).await, "");
    // Nothing is compressed in one without a credential either.
    let paths = json!([{"action": "allow", "host": NAME, "protocol": "tls", "paths": ["/ws"]}]);
    let other = Terminated::new(with_rules(paths, json!([]))).await;
    let (heard, _) = other.exchange(&get("/ws", upgrade), OK).await;
    assert!(heard.contains("Upgrade: websocket") && !heard.contains("deflate"), "{heard}");

    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let (heard, _) = terminated.exchange(&get("/", h2c), OK).await;
    assert!(!heard.to_lowercase().contains("h2"), "{heard}");
}
