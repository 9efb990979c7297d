//! HTTP in the clear: each request is decided on by itself.

use super::world::*;
use model::gate_api::Unconnected;
use serde_json::json;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Reads a head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(read(stream, 1).await);
    }
    String::from_utf8(head).unwrap()
}

/// Sends a request, and returns the status, and the body of a problem.
async fn refused(client: &mut TcpStream, request: &str) -> (String, model::Problem) {
    client.write_all(request.as_bytes()).await.unwrap();
    let head = head(client).await;
    assert!(head.contains("application/problem+json"), "{head}");
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let problem = serde_json::from_slice(&read(client, length).await).unwrap();
    (head[9..12].to_owned(), problem)
}

const GET: &str = "GET /a?b HTTP/1.1\r\nHost: a.example.com\r\nX-Odd-Case: y\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nX-Odd-Case: z\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn requests_pass_one_after_the_other_and_none_for_another_host() {
    let world = World::new(allow("*.example.com")).await;
    let server = world.host("a.example.com", 80).await;
    let mut client = world.client("a.example.com", 80).await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut upstream = accept(&server).await;
    for turn in 0..3 {
        assert_eq!(head(&mut upstream).await, GET);
        upstream.write_all(OK).await.unwrap();
        assert_eq!(read(&mut client, OK.len()).await, OK);
        if turn < 2 {
            client.write_all(GET.as_bytes()).await.unwrap();
        }
    }
    let other = "GET / HTTP/1.1\r\nHost: b.example.com\r\n\r\n";
    let (status, problem) = refused(&mut client, other).await;
    assert_eq!((status.as_str(), problem.code), ("403", model::Code::Forbidden));
    assert!(problem.remedy.is_some() && problem.detail.contains("b.example.com"), "{problem:?}");
    assert_eq!(rest(&mut upstream).await.unwrap_or_default(), b"");
    assert_eq!(rest(&mut client).await.unwrap_or_default(), b"");

    // Nor behind the first in the same segment.
    let mut client = world.client("a.example.com", 80).await;
    client.write_all(format!("{GET}{other}").as_bytes()).await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(head(&mut upstream).await, GET);
    upstream.write_all(OK).await.unwrap();
    assert_eq!(read(&mut client, OK.len()).await, OK);
    assert!(head(&mut client).await.starts_with("HTTP/1.1 403"));
    assert_eq!(rest(&mut upstream).await.unwrap_or_default(), b"");
}

#[tokio::test]
async fn what_is_not_for_the_host_reaches_nobody() {
    let world = World::new(allow("*.example.com")).await;
    let _server = world.host("a.example.com", 80).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: b.example.com\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\nHost: a.example.com:8080\r\n\r\n", "403"),
        ("GET http://b.example.com/ HTTP/1.1\r\nHost: a.example.com\r\n\r\n", "403"),
        ("CONNECT a.example.com:443 HTTP/1.1\r\nHost: a.example.com:443\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a.example.com\r\nHost: b.example.com\r\n\r\n", "400"),
        ("GET https://a.example.com/ HTTP/1.1\r\nHost: a.example.com\r\n\r\n", "400"),
    ] {
        let mut client = world.client("a.example.com", 80).await;
        assert_eq!(refused(&mut client, request).await.0, status, "{request}");
        assert_eq!(rest(&mut client).await.unwrap_or_default(), b"", "{request}");
    }
    for request in [
        "GET / HTTP/1.1\r\nHost : a.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example.com\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET / HTTP/2.7\r\nHost: a.example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example.com\r\n x: y\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /\r\n",
    ] {
        let mut client = world.client("a.example.com", 80).await;
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = rest(&mut client).await.unwrap_or_default();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{request}");
    }
    assert!(world.dialled().is_empty());
}

#[tokio::test]
async fn the_length_of_a_body_is_said_in_one_way_only() {
    let world = World::new(allow("a.example.com")).await;
    let server = world.host("a.example.com", 80).await;
    let body = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: b.example.com\r\n\r\n";
    for headers in [
        "Content-Length: 55\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 55",
    ] {
        let mut client = world.client("a.example.com", 80).await;
        let request = format!("POST / HTTP/1.1\r\nHost: a.example.com\r\n{headers}\r\n\r\n{body}");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut upstream = accept(&server).await;
        let head = head(&mut upstream).await;
        assert!(!head.to_lowercase().contains("content-length") && head.contains("chunked"), "{head}");
        assert_eq!(read(&mut upstream, 5).await, b"0\r\n\r\n");
        upstream.write_all(OK).await.unwrap();
        let answer = rest(&mut client).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"ok"), "{}", answer.escape_ascii());
        // Nothing that followed was taken for a request.
        assert_eq!(rest(&mut upstream).await.unwrap_or_default(), b"");
    }
}

#[tokio::test]
async fn methods_and_paths_are_decided_on() {
    let policy = rules(json!([{
        "action": "allow", "host": "a.example.com", "ports": [80], "protocol": "http",
        "methods": ["GET"], "paths": ["/repos/**"],
    }]));
    let mut world = World::new(policy).await;
    let server = world.host("a.example.com", 80).await;
    let mut client = world.client("a.example.com", 80).await;
    let request =
        |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: a.example.com\r\n\r\n");
    for (method, path) in
        [("POST", "/repos/x"), ("GET", "/"), ("GET", "/repos/../x"), ("GET", "/repos/%2e%2e/x")]
    {
        let (status, problem) = refused(&mut client, &request(method, path)).await;
        assert_eq!((status.as_str(), problem.code), ("403", model::Code::Forbidden), "{method} {path}");
    }
    assert!(world.dialled().is_empty());
    // On the same connection.
    client.write_all(request("GET", "http://a.example.com/repos/x").as_bytes()).await.unwrap();
    let mut upstream = accept(&server).await;
    assert!(head(&mut upstream).await.starts_with("GET /repos/x HTTP/1.1\r\n"));
    // While it is answered, it is denied.
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx").await.unwrap();
    head(&mut client).await;
    world
        .set(Some(rules(json!([{
            "action": "allow", "host": "a.example.com", "ports": [80], "protocol": "http", "paths": ["/other"],
        }]))))
        .await;
    assert!(rest(&mut client).await.is_none());
}

#[tokio::test]
async fn bodies_stream_both_ways_and_the_end_of_one_connection_is_that_of_the_other() {
    let world = World::new(allow("a.example.com")).await;
    let server = world.host("a.example.com", 80).await;
    let mut client = world.client("a.example.com", 80).await;
    let post = "POST / HTTP/1.1\r\nHost: a.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(post.as_bytes()).await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(head(&mut upstream).await, post);
    // Each piece arrives before the next is sent, and the answer begins before the request ends.
    client.write_all(b"3\r\nabc\r\n").await.unwrap();
    assert_eq!(read(&mut upstream, 8).await, b"3\r\nabc\r\n");
    upstream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    assert!(head(&mut client).await.contains("transfer-encoding: chunked"));
    upstream.write_all(b"xyz").await.unwrap();
    assert_eq!(read(&mut client, 8).await, b"3\r\nxyz\r\n");
    client.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(read(&mut upstream, 5).await, b"0\r\n\r\n");
    drop(upstream);
    assert_eq!(rest(&mut client).await.unwrap(), b"0\r\n\r\n");

    // A server that closes between two requests.
    let mut client = world.client("a.example.com", 80).await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut upstream = accept(&server).await;
    head(&mut upstream).await;
    upstream.write_all(OK).await.unwrap();
    drop(upstream);
    let answer = rest(&mut client).await.unwrap();
    // If it is known by then, the client hears that this was the last.
    assert!(
        answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"\r\n\r\nok"),
        "{}",
        answer.escape_ascii()
    );

    // One that never answers, and one that is not there.
    let mut client = world.client("a.example.com", 80).await;
    client.write_all(GET.as_bytes()).await.unwrap();
    drop(accept(&server).await);
    assert!(head(&mut client).await.starts_with("HTTP/1.1 503"));
    world.route("93.184.216.34:80", Route::Fail(Unconnected::Forbidden));
    let mut client = world.client("a.example.com", 80).await;
    let (status, problem) = refused(&mut client, GET).await;
    assert_eq!((status.as_str(), problem.code), ("503", model::Code::Unavailable));
    assert!(problem.detail.contains("not one of the public internet"), "{problem:?}");
}

#[tokio::test]
async fn web_sockets_pass_and_other_protocols_are_not_agreed_on() {
    let world = World::new(allow("a.example.com")).await;
    let server = world.host("a.example.com", 80).await;
    let upgrade =
        "GET /ws HTTP/1.1\r\nHost: a.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client = world.client("a.example.com", 80).await;
    client.write_all(upgrade.as_bytes()).await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(head(&mut upstream).await, upgrade);
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    upstream.write_all(&[&switching[..], b"first"].concat()).await.unwrap();
    assert_eq!(read(&mut client, switching.len()).await, switching);
    assert_eq!(read(&mut client, 5).await, b"first");
    client.write_all(b"GET / HTTP/1.1\r\nHost: other\r\n\r\n").await.unwrap();
    assert_eq!(read(&mut upstream, 31).await, b"GET / HTTP/1.1\r\nHost: other\r\n\r\n");
    upstream.write_all(b"second").await.unwrap();
    assert_eq!(read(&mut client, 6).await, b"second");
    drop(client);
    assert_eq!(rest(&mut upstream).await.unwrap(), b"");

    let mut client = world.client("a.example.com", 80).await;
    let h2c = "GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
               HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    client.write_all(h2c.as_bytes()).await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(head(&mut upstream).await, "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n");
}

#[tokio::test]
async fn a_late_client_of_http_is_looked_at_too() {
    let world = World::new(allow_tcp("a.example.com", 8080)).await;
    let server = world.host("a.example.com", 8080).await;
    let mut client = world.client("a.example.com", 8080).await;
    // The server was connected, because it could have had the first word.
    let mut upstream = accept(&server).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let request = "GET / HTTP/1.1\r\nHost: a.example.com:8080\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(head(&mut upstream).await, request);
    upstream.write_all(OK).await.unwrap();
    assert_eq!(read(&mut client, OK.len()).await, OK);
    let other = "GET / HTTP/1.1\r\nHost: b.example.com:8080\r\n\r\n";
    assert_eq!(refused(&mut client, other).await.0, "403");
}
