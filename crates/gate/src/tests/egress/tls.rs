//! Connections of TLS: the name in the ClientHello has to be the one that the address stands for.

use super::world::*;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

#[tokio::test]
async fn an_allowed_name_passes_both_ways_and_each_side_may_end_first() {
    let world = World::new(allow("api.example.com")).await;
    let server = world.host("api.example.com", 443).await;
    let hello = client_hello(Some("api.example.com"));
    let mut client = world.client("api.example.com", 443).await;
    client.write_all(&hello).await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(read(&mut upstream, hello.len()).await, hello);
    upstream.write_all(b"hello yourself").await.unwrap();
    assert_eq!(read(&mut client, 14).await, b"hello yourself");
    // Much, in both directions at once.
    let much = vec![0x5a; 8 << 20];
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = upstream.into_split();
    let copy = async |to: &mut tokio::net::tcp::OwnedWriteHalf| {
        to.write_all(&much).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let count = async |from: &mut tokio::net::tcp::OwnedReadHalf| {
        let mut bytes = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(from, &mut bytes).await.unwrap();
        assert!(bytes == much);
    };
    let all = async {
        tokio::join!(
            copy(&mut to_client),
            count(&mut from_server),
            copy(&mut to_server),
            count(&mut from_client)
        )
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    assert_eq!(world.dialled(), ["93.184.216.34:443".parse().unwrap()]);

    // The client said all; the server still answers.
    let mut client = world.client("api.example.com", 443).await;
    client.write_all(&hello).await.unwrap();
    client.shutdown().await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(rest(&mut upstream).await.unwrap(), hello);
    tokio::time::sleep(Duration::from_millis(50)).await;
    upstream.write_all(b"late").await.unwrap();
    drop(upstream);
    assert_eq!(rest(&mut client).await.unwrap(), b"late");
}

#[tokio::test]
async fn another_name_gets_an_alert_and_reaches_nobody() {
    let world = World::new(allow("*.example.com")).await;
    let _server = world.host("api.example.com", 443).await;
    for other in ["www.example.com", "example.org", "api.example.com.evil.org"] {
        let mut client = world.client("api.example.com", 443).await;
        client.write_all(&client_hello(Some(other))).await.unwrap();
        assert_eq!(rest(&mut client).await.unwrap(), ALERT, "{other}");
    }
    assert!(world.dialled().is_empty() && world.node.resolved.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_a_name_the_address_tells() {
    let world = World::new(allow("api.example.com")).await;
    let server = world.host("api.example.com", 443).await;
    let mut client = world.client("api.example.com", 443).await;
    let hello = client_hello(None);
    // Byte by byte, as a hello may come.
    let (first, last) = hello.split_at(hello.len() - 1);
    for byte in first {
        client.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.dialled().is_empty());
    client.write_all(last).await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(read(&mut upstream, hello.len()).await, hello);
}

#[tokio::test]
async fn what_is_not_whole_or_not_tls_reaches_nobody() {
    let world = World::new(allow("api.example.com")).await;
    let _server = world.host("api.example.com", 443).await;
    let hello = client_hello(Some("api.example.com"));
    let mut two = hello.clone();
    two.extend(client_hello(Some("other.example.com")));
    let cases: [&[u8]; 5] = [
        &hello[..hello.len() - 1],
        &[22, 3, 1, 0, 5, 2, 0, 0, 1, 0],
        b"SSH-2.0-x\r\n",
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"",
    ];
    for bytes in cases {
        let mut client = world.client("api.example.com", 443).await;
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let answer = rest(&mut client).await;
        let refused = answer.is_none() || answer.is_some_and(|answer| answer.starts_with(b"HTTP/1.1 403"));
        assert!(refused, "{}", bytes.escape_ascii());
    }
    assert!(world.dialled().is_empty());
}

#[tokio::test]
async fn addresses_are_for_rules_about_addresses() {
    let world = World::new(allow("93.184.216.0/24")).await;
    let server = world.server("93.184.216.34:443").await;
    let _other = world.server("93.184.217.34:443").await;
    let mut client = world.client_at("93.184.216.34:443").await;
    // There is no name that this could differ from.
    let hello = client_hello(Some("whatever.example.org"));
    client.write_all(&hello).await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(read(&mut upstream, hello.len()).await, hello);
    for other in ["93.184.217.34:443", "127.0.0.1:443", "0.0.0.0:443", "198.18.0.9:443", "[fdcf:d::9]:443"] {
        let mut client = world.client_at(other).await;
        let _ = client.write_all(&hello).await;
        assert_eq!(rest(&mut client).await, None, "{other}");
    }
    assert_eq!(world.dialled().len(), 1);
}
