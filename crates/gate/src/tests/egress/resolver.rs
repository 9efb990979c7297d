//! A resolver that is asked by TLS or HTTPS: who is meant is asked, and nobody else hears a name.

use super::terminated::Signer;
use super::world::*;
use model::Resolver;
use model::egress::Outcome;
use model::gate_api::ToGate;
use rcgen::CertificateParams;
use std::sync::atomic::Ordering;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

const NAME: &str = "a.example.com";
const MESSAGE: &str = "application/dns-message";

/// A gate that asks its resolver in this way, and verifies it by this signer.
async fn begin(resolver: &str, known: &Signer) -> World {
    let mut world = World::with(settings(), None, &[]).await;
    world.tell(&ToGate::Roots { pem: known.pem() }).await;
    world.tell(&ToGate::Resolver { resolver: resolver.parse::<Resolver>().unwrap() }).await;
    world.set(Some(allow("*.example.com"))).await;
    world
}

/// From now on the resolver shows this, and says that by HTTPS.
fn shows(world: &World, shown: Option<TlsAcceptor>, says: Option<(u16, &'static str)>) {
    *world.node.shown.lock().unwrap() = shown;
    *world.node.says.lock().unwrap() = says;
}

fn same(_: &mut CertificateParams) {}

async fn passes(world: &World) {
    let server = world.host(NAME, 443).await;
    let mut client = world.client_soon(NAME, 443).await;
    let hello = client_hello(Some(NAME));
    client.write_all(&hello).await.unwrap();
    assert_eq!(read(&mut accept(&server).await, hello.len()).await, hello);
}

/// Why it is not connected.
async fn fails(world: &mut World) -> String {
    let mut client = world.client_soon(NAME, 443).await;
    client.write_all(&client_hello(Some(NAME))).await.unwrap();
    assert_eq!(rest(&mut client).await, None);
    loop {
        let record = world.record().await;
        if record.outcome == Outcome::Failed {
            return record.end.unwrap();
        }
    }
}

#[tokio::test]
async fn names_are_asked_for_by_tls_and_by_https() {
    let known = Signer::new("known");
    for (resolver, shown, says) in [
        ("tls://9.9.9.9#dns.example", known.server(&["dns.example"], &[], same), None),
        // One that speaks more.
        ("tls://9.9.9.9#dns.example", known.server(&["x.example", "dns.example"], &["dot"], same), None),
        // By its address.
        ("tls://9.9.9.9", known.server(&["9.9.9.9"], &[], same), None),
        (
            "https://9.9.9.9/dns-query#dns.example",
            known.server(&["dns.example"], &["h2"], same),
            Some((200, MESSAGE)),
        ),
    ] {
        let world = begin(resolver, &known).await;
        shows(&world, Some(shown), says);
        passes(&world).await;
        let asked = world.node.resolved.lock().unwrap().clone();
        // For each family.
        assert_eq!(asked, [NAME, NAME], "{resolver}");
        // Another name goes over the same connection.
        world.name("b.example.com", &["93.184.216.35"]);
        let server = world.server("93.184.216.35:443").await;
        let mut client = world.client("b.example.com", 443).await;
        client.write_all(&client_hello(Some("b.example.com"))).await.unwrap();
        accept(&server).await;
        let connections = world.node.asked.lock().unwrap();
        let to_resolver = connections
            .iter()
            .filter(|asked| matches!(asked, model::gate_api::FromGateSockets::Resolver { .. }));
        assert_eq!(to_resolver.count(), 1, "{resolver}");
    }
}

#[tokio::test]
async fn a_resolver_that_is_another_hears_no_name() {
    let (known, unknown) = (Signer::new("known"), Signer::new("unknown"));
    let expired = |params: &mut CertificateParams| params.not_after = OffsetDateTime::UNIX_EPOCH;
    for (resolver, alpn, says) in [
        ("tls://9.9.9.9#dns.example", &[][..], None),
        ("https://9.9.9.9#dns.example", &["h2"][..], Some((200, MESSAGE))),
    ] {
        let mut world = begin(resolver, &known).await;
        world.name(NAME, &["93.184.216.34"]);
        for (shown, why) in [
            (Some(unknown.server(&["dns.example"], alpn, same)), "no known authority"),
            (Some(known.server(&["other.example"], alpn, same)), "another name"),
            // Its address is not what it is known by.
            (Some(known.server(&["9.9.9.9"], alpn, same)), "another name"),
            (Some(known.server(&["dns.example"], alpn, expired)), "expired"),
            // In the clear.
            (None, "TLS"),
        ] {
            shows(&world, shown, says);
            let end = fails(&mut world).await;
            assert!(end.contains("the resolver") && end.contains(why), "{resolver} {why}: {end}");
        }
        assert!(world.dialled().is_empty());
        let asked = world.node.resolved.lock().unwrap().clone();
        assert!(asked.is_empty(), "{asked:?}");
        // Once the right one is back, so are names.
        shows(&world, Some(known.server(&["dns.example"], alpn, same)), says);
        passes(&world).await;
        assert!(world.node.strange.load(Ordering::Relaxed) > 0);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_message_of_dns_is_none() {
    let known = Signer::new("known");
    let mut world = begin("https://9.9.9.9#dns.example", &known).await;
    world.name(NAME, &["93.184.216.34"]);
    for says in [(500, MESSAGE), (302, MESSAGE), (200, "text/html")] {
        shows(&world, Some(known.server(&["dns.example"], &["h2"], same)), Some(says));
        let end = fails(&mut world).await;
        assert!(end.contains("the resolver does not answer"), "{says:?}: {end}");
        assert!(world.dialled().is_empty());
        // The next one begins anew.
        *world.node.resolved.lock().unwrap() = Vec::new();
    }
}

#[tokio::test]
async fn without_authorities_nobody_is_asked() {
    let known = Signer::new("known");
    let mut world = World::with(settings(), None, &[]).await;
    world.tell(&ToGate::Resolver { resolver: "tls://9.9.9.9#dns.example".parse().unwrap() }).await;
    world.set(Some(allow("*.example.com"))).await;
    world.name(NAME, &["93.184.216.34"]);
    shows(&world, Some(known.server(&["dns.example"], &[], same)), None);
    assert!(fails(&mut world).await.contains("no authorities are known"));
    assert!(world.node.resolved.lock().unwrap().is_empty() && world.dialled().is_empty());
}
