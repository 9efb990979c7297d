//! Credentials in every place where they can be put, and why some are not.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::Code;

async fn with_place(place: Value) -> Terminated {
    let mut inject = json!({"secret": "one", "host": NAME});
    inject.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
    Terminated::new(injecting(json!([inject]))).await
}

#[tokio::test]
async fn headers_have_them() {
    let basic = STANDARD.encode(format!("me:{VALUE}"));
    let in_basic = STANDARD.encode(format!("me:{PLACEHOLDER}"));
    for (place, sent, expected) in [
        (json!({"header": "X-Api-Key"}), format!("x-api-key: {PLACEHOLDER}"), format!("x-api-key: {VALUE}")),
        (json!({"header": "X-Api-Key"}), "X-Other: y".to_owned(), format!("x-api-key: {VALUE}")),
        (
            json!({"header": "authorization", "prefix": "token "}),
            format!("Authorization: token {PLACEHOLDER}\r\nAuthorization: something else"),
            format!("authorization: token {VALUE}"),
        ),
        (
            json!({"bearer": true}),
            format!("Authorization: Basic {in_basic}"),
            format!("authorization: bearer {VALUE}"),
        ),
        (
            json!({"basic": "me"}),
            format!("Authorization: Basic {in_basic}"),
            format!("authorization: basic {basic}"),
        ),
    ] {
        let terminated = with_place(place).await;
        let (heard, _) = terminated.exchange(&get("/", &format!("{sent}\r\n")), OK).await;
        let heard: Vec<_> =
            heard.lines().filter(|line| line.to_lowercase().starts_with(&expected[..9])).collect();
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert!(heard[0].eq_ignore_ascii_case(&expected), "{heard:?}");
    }
}

#[tokio::test]
async fn queries_have_them() {
    let terminated = with_place(json!({"query": "key"})).await;
    let value = "sk-s3cr3t%2Fvalue%2B0123456789";
    for (path, expected) in [
        ("/x".to_owned(), format!("/x?key={value}")),
        (format!("/x?a=b&key={PLACEHOLDER}&c=%20"), format!("/x?a=b&key={value}&c=%20")),
        (format!("/x?k%65y=1&key=2&keys={}", "3"), format!("/x?key={value}&keys=3")),
    ] {
        let (heard, _) = terminated.exchange(&get(&path, ""), OK).await;
        assert!(heard.starts_with(&format!("GET {expected} HTTP/1.1\r\n")), "{heard}");
    }
    let (status, _) = terminated.refused(&get(&format!("/?keys={PLACEHOLDER}"), "")).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn bodies_have_them() {
    let terminated = with_place(json!({"body": "client_secret"})).await;
    let form = "application/x-www-form-urlencoded";
    let value = "sk-s3cr3t%2Fvalue%2B0123456789";
    let check = async |kind: &str, body: &str, expected: &str| {
        let (heard, _) = terminated.exchange(&post("/", kind, body), OK).await;
        let (head, heard) = heard.split_once("\r\n\r\n").unwrap();
        assert_eq!(heard, expected);
        assert!(head.to_lowercase().contains(&format!("content-length: {}", expected.len())), "{head}");
    };
    let sent = format!("a=1&client_secret={PLACEHOLDER}&b=2");
    check(form, &sent, &format!("a=1&client_secret={value}&b=2")).await;
    let sent = format!("{{\"a\": 1, \"client_secret\": \"{PLACEHOLDER}\"}}");
    check("application/json", &sent, &format!("{{\"a\":1,\"client_secret\":\"{VALUE}\"}}")).await;
    // What is neither passes as it is.
    check("text/plain", "client_secret=x", "client_secret=x").await;
    // In pieces it is one.
    let server = terminated.host(NAME).await;
    let (mut client, mut upstream) = terminated.both(&server).await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: {form}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    client.write_all(format!("{head}2\r\na=\r\n1\r\nb\r\n0\r\n\r\n").as_bytes()).await.unwrap();
    let heard = message(&mut upstream).await;
    assert!(heard.ends_with(&format!("\r\n\r\na=b&client_secret={value}")), "{heard}");
    assert!(!heard.to_lowercase().contains("chunked"), "{heard}");

    for (kind, body, status) in [
        (form, format!("other={PLACEHOLDER}"), 403),
        (form, format!("client_secret={ANOTHER}"), 403),
        ("application/json", format!("{{\"client_secret\": \"x\", \"y\": [\"{PLACEHOLDER}\"]}}"), 403),
        ("application/json", "[]".to_owned(), 400),
        ("application/json", "{".to_owned(), 400),
        (form, "x".repeat((1 << 20) + 1), 413),
    ] {
        let (is, problem) = terminated.refused(&post("/", kind, &body)).await;
        assert_eq!(is, status, "{kind} {problem:?}");
    }
    assert_eq!(terminated.refused(&post("/", "text/plain", PLACEHOLDER)).await.0, 403);
}

#[tokio::test]
async fn the_placeholder_says_which_of_several() {
    let policy = injecting(json!([
        {"secret": "one", "host": NAME, "header": "x-key"},
        {"secret": "two", "host": NAME, "header": "X-Key"},
    ]));
    let both = vec![credential("one", VALUE, PLACEHOLDER), credential("two", "another value", ANOTHER)];
    let mut terminated = Terminated::with(policy, Some(both)).await;
    for (sent, expected) in [(PLACEHOLDER, VALUE), (ANOTHER, "another value"), ("x", VALUE)] {
        let (heard, _) = terminated.exchange(&get("/", &format!("x-key: {sent}\r\n")), OK).await;
        assert!(heard.contains(&format!("x-key: {expected}\r\n")), "{heard}");
    }
    let named = async |terminated: &mut Terminated| loop {
        let record = terminated.world.record().await;
        if record.port.is_some() {
            return record.credentials;
        }
    };
    let names = [named(&mut terminated).await, named(&mut terminated).await];
    assert_eq!(names, [["one".parse().unwrap()], ["two".parse().unwrap()]]);
}

#[tokio::test]
async fn nothing_is_sent_without_what_belongs_in_it() {
    let mut terminated = Terminated::with(bearer(), None).await;
    let request = get("/", &format!("Authorization: Bearer {PLACEHOLDER}\r\n"));
    let (status, problem) = terminated.refused(&request).await;
    assert_eq!((status, problem.code), (503, Code::Unavailable));
    for (credentials, why) in [
        (vec![], "not there"),
        (vec![credential("two", VALUE, PLACEHOLDER)], "not there"),
        (vec![credential("one", "sk-value\nX-Other: y", PLACEHOLDER)], "characters"),
        (vec![credential("one", "short", PLACEHOLDER)], "fewer than 8"),
        (vec![credential("one", &"x".repeat(20_000), PLACEHOLDER)], "more than"),
    ] {
        terminated.credentials(credentials).await;
        // In force with the next policy.
        terminated.world.set(None).await;
        while resolve(&terminated.world.doors, NAME).await.is_ok() {}
        terminated.world.set(Some(bearer())).await;
        let (status, problem) = terminated.refused(&request).await;
        assert_eq!(status, 503, "{why}");
        assert!(problem.detail.contains("credential one") && problem.detail.contains(why), "{problem:?}");
        assert!(!problem.to_string().contains("sk-"), "{problem:?}");
    }
    terminated.credentials(vec![credential("one", "another one's value", PLACEHOLDER)]).await;
    terminated.world.set(None).await;
    while resolve(&terminated.world.doors, NAME).await.is_ok() {}
    terminated.world.set(Some(bearer())).await;
    let (heard, _) = terminated.exchange(&request, OK).await;
    assert!(heard.contains("Authorization: Bearer another one's value\r\n"), "{heard}");
}
