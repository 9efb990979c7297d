//! Servers that repeat what they were asked: the value does not come back.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

fn stars(count: usize) -> String {
    "*".repeat(count)
}

/// What the client hears of an answer to a request with the credential.
async fn heard(terminated: &Terminated, answer: &str) -> String {
    terminated.exchange(&get("/", "Accept-Encoding: gzip, br\r\n"), answer).await.1
}

#[tokio::test]
async fn a_value_is_covered_in_heads_and_bodies_and_lengths_stay() {
    let terminated = Terminated::new(bearer()).await;
    let encoded = "sk-s3cr3t%2Fvalue%2B0123456789";
    let in_base64 = STANDARD.encode(format!("user:{VALUE}"));
    let for_urls = URL_SAFE_NO_PAD.encode(VALUE);
    let body =
        format!("<{VALUE}> [{encoded}] sk-s3cr3t\\/value+0123456789 ({in_base64}) {{{for_urls}}} sk-s3cr3");
    let answer = format!(
        "HTTP/1.1 200 Key {VALUE}\r\nX-Echo: Bearer {VALUE}\r\nX-Two: {encoded}, {VALUE}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let heard = heard(&terminated, &answer).await;
    assert!(heard.contains(&format!("X-Echo: Bearer {}\r\n", stars(VALUE.len()))), "{heard}");
    assert!(
        heard.contains(&format!("X-Two: {}, {}\r\n", stars(encoded.len()), stars(VALUE.len()))),
        "{heard}"
    );
    let (head, came) = heard.split_once("\r\n\r\n").unwrap();
    assert_eq!(came.len(), body.len());
    assert!(!head.contains("s3cr3t"), "{head}");
    assert!(
        came.ends_with(" sk-s3cr3") && came.starts_with(&format!("<{}> [", stars(VALUE.len()))),
        "{came}"
    );
    for echo in
        [VALUE, "s3cr3t%2F", "s3cr3t\\/", &in_base64[8..in_base64.len() - 4], &for_urls[..for_urls.len() - 2]]
    {
        assert!(!heard.contains(echo), "{echo} {heard}");
    }
}

#[tokio::test]
async fn a_value_in_pieces_is_covered_too() {
    let terminated = Terminated::new(bearer()).await;
    let server = terminated.host(NAME).await;
    for cut in [1, 3, 4, 5, 12, VALUE.len() - 1] {
        let (mut client, mut upstream) = terminated.both(&server).await;
        client.write_all(get("/", "").as_bytes()).await.unwrap();
        message(&mut upstream).await;
        let (first, second) = VALUE.split_at(cut);
        upstream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        super::head(&mut client).await;
        upstream.write_all(format!("{:x}\r\nx{first}\r\n", cut + 1).as_bytes()).await.unwrap();
        // What cannot be part of it does not wait for the rest.
        let mut start = [0; 4];
        in_time(client.read_exact(&mut start)).await.unwrap();
        assert!(start.ends_with(b"x"), "{}", start.escape_ascii());
        upstream.write_all(format!("{:x}\r\n{second}y\r\n", second.len() + 1).as_bytes()).await.unwrap();
        upstream.write_all(format!("0\r\nx-trailer: {VALUE}\r\n\r\n").as_bytes()).await.unwrap();
        let mut rest = String::new();
        while !rest.ends_with("0\r\n\r\n") {
            rest.push(char::from(in_time(client.read_u8()).await.unwrap()));
        }
        assert!(rest.contains("*y"), "{rest}");
        // At most a little of its beginning went on before it was known for what it was.
        let letters: String = rest.chars().filter(|c| "sk-3crtvalue/+".contains(*c)).collect();
        assert!(letters.len() <= 3, "{cut} {letters}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_does_not_pass() {
    let terminated = Terminated::new(bearer()).await;
    let server = terminated.host(NAME).await;
    for coding in
        ["Content-Encoding: gzip", "Content-Encoding: identity, br", "Transfer-Encoding: gzip, chunked"]
    {
        let (mut client, mut upstream) = terminated.both(&server).await;
        client.write_all(get("/", "Accept-Encoding: gzip\r\nTE: gzip\r\n").as_bytes()).await.unwrap();
        let asked = message(&mut upstream).await.to_lowercase();
        assert!(asked.contains("accept-encoding: identity\r\n") && !asked.contains("gzip"), "{asked}");
        let length = if coding.starts_with('T') { "" } else { "Content-Length: 4\r\n" };
        let body = if coding.starts_with('T') { "4\r\nxxxx\r\n0\r\n\r\n" } else { "xxxx" };
        let answer = format!("HTTP/1.1 200 OK\r\n{coding}\r\n{length}\r\n{body}");
        upstream.write_all(answer.as_bytes()).await.unwrap();
        let (status, problem) = problem(&message(&mut client).await);
        assert_eq!(status, 502, "{coding}");
        assert!(problem.detail.contains("encoded"), "{problem:?}");
    }
}

#[tokio::test]
async fn a_value_is_covered_in_answers_to_other_requests_too() {
    // The server may show to one what another said.
    let policy = injecting(json!([{"secret": "one", "host": NAME, "bearer": true, "methods": ["POST"]}]));
    let terminated = Terminated::new(policy).await;
    let body = format!("the last one said {VALUE}");
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (asked, answered) = terminated.exchange(&get("/", "Accept-Encoding: br\r\n"), &answer).await;
    assert!(!asked.contains(VALUE) && asked.contains("Accept-Encoding: identity\r\n"), "{asked}");
    assert!(answered.ends_with(&format!("said {}", stars(VALUE.len()))), "{answered}");
    // At a host of the same policy without a credential, it is as the server likes.
    let elsewhere = injecting(json!([{"secret": "one", "host": "other.example.com", "bearer": true}]));
    let rules = json!([{"action": "allow", "host": NAME, "methods": ["GET"]}]);
    let policy = with_rules(rules, serde_json::to_value(elsewhere.egress.inject).unwrap());
    let terminated = Terminated::new(policy).await;
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: {}\r\n\r\n{VALUE}", VALUE.len());
    let sent = get("/", "Accept-Encoding: br\r\nRange: bytes=0-9\r\n");
    assert_eq!(terminated.exchange(&sent, &answer).await, (sent, answer));
}

#[tokio::test]
async fn parts_of_an_answer_are_not_asked_for() {
    let terminated = Terminated::new(bearer()).await;
    let sent = get("/", "Range: bytes=0-20\r\nIf-Range: x\r\n");
    let (asked, _) = terminated.exchange(&sent, OK).await;
    assert!(!asked.to_lowercase().contains("range"), "{asked}");
}

#[tokio::test]
async fn an_answer_without_a_body_passes() {
    let terminated = Terminated::new(bearer()).await;
    let answer = "HTTP/1.1 304 Not Modified\r\nContent-Encoding: gzip\r\nETag: x\r\n\r\n";
    let server = terminated.host(NAME).await;
    let (mut client, mut upstream) = terminated.both(&server).await;
    for _ in 0..2 {
        client.write_all(get("/", "").as_bytes()).await.unwrap();
        message(&mut upstream).await;
        upstream.write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(super::head(&mut client).await, answer);
    }
}
