use super::*;
use proptest::prelude::*;
use std::sync::Arc;

/// What the library of a real client sends first.
fn real(name: &'static str, sni: bool) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.enable_sni = sni;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut client = rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(data)].concat()
}

fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|(kind, name)| [&[*kind][..], &long(name)].concat()).collect();
    extension(SERVER_NAME, &long(&list))
}

/// A ClientHello without the header of its message. `None` has no extensions at all.
fn body(extensions: Option<&[Vec<u8>]>) -> Vec<u8> {
    let mut body = [&[3, 3][..], &[7; 32], &[32], &[9; 32], &long(&[0x13, 1, 0x13, 2]), &[1, 0]].concat();
    if let Some(extensions) = extensions {
        body.extend(long(&extensions.concat()));
    }
    body
}

fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[CLIENT_HELLO], &length[1..], body].concat()
}

/// In records of so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|piece| [&[HANDSHAKE, 3, 1][..], &long(piece)].concat()).collect()
}

fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&message(&body(Some(extensions))), MAX_RECORD)
}

fn tls(name: Option<&str>) -> Hello {
    Hello::Tls { sni: name.map(str::to_owned), ech: false }
}

/// However much of it there is, it is either too little or the same.
fn check(bytes: &[u8], expected: &Hello) {
    assert_eq!(hello(bytes), *expected);
    let mut decided = false;
    for cut in 0..=bytes.len() {
        let found = hello(&bytes[..cut]);
        decided |= found != Hello::More;
        assert_eq!(found, if decided { expected.clone() } else { Hello::More }, "at {cut}");
    }
    let more = [bytes, b"\x17\x03\x03 and more"].concat();
    if *expected != Hello::More {
        assert_eq!(hello(&more), *expected);
    }
}

#[test]
fn hellos_of_a_real_client() {
    let bytes = real("API.example.com", true);
    check(&bytes, &tls(Some("api.example.com")));
    check(&real("api.example.com", false), &tls(None));
    check(&real("192.0.2.1", true), &tls(None));
    // The same in many records.
    let inner = &bytes[5..];
    for size in [1, 3, 100, 1000] {
        let split = records(inner, size.max(inner.len().div_ceil(MAX_RECORDS)));
        check(&split, &tls(Some("api.example.com")));
    }
    assert_eq!(hello(&records(inner, 1)), Hello::Bad);
}

#[test]
fn what_is_no_tls() {
    check(b"", &Hello::More);
    check(b"GET / HTTP/1.1\r\n\r\n", &Hello::NotTls);
    check(b"SSH-2.0-x\r\n", &Hello::NotTls);
    check(b"\x16", &Hello::More);
    check(b"\x16\x02\x00", &Hello::NotTls);
    check(b"\x15\x03\x01\x00\x02\x02\x00", &Hello::NotTls);
    // As SSL 2 begins.
    check(b"\x80\x2e\x01\x03\x01", &Hello::NotTls);
}

#[test]
fn names_that_are_asked_for() {
    let name = |text: &[u8]| with(&[extension(10, b"\0\x02\0\x1d"), names(&[(0, text)])]);
    let good = |text: &str, expected: &str| check(&name(text.as_bytes()), &tls(Some(expected)));
    good("example.com", "example.com");
    good("EXAMPLE.com.", "example.com");
    good("_x.example.com", "_x.example.com");
    good("xn--bcher-kva.example", "xn--bcher-kva.example");
    for bad in [
        &b""[..],
        b".",
        b"a..b",
        b"192.0.2.1",
        b"0x7f.1",
        b"::1",
        b"a b",
        b"a\0.example",
        "bücher.example".as_bytes(),
        b"*.a",
        b"\xff",
    ] {
        check(&name(bad), &Hello::Bad);
    }
    check(&with(&[]), &tls(None));
    check(&records(&message(&body(None)), MAX_RECORD), &tls(None));
    let ech = extension(ENCRYPTED_CLIENT_HELLO, b"\0whatever");
    let expected = Hello::Tls { sni: Some("outer.example".to_owned()), ech: true };
    check(&with(&[ech, names(&[(0, b"outer.example")])]), &expected);
}

#[test]
fn hellos_that_break_the_rules() {
    let bad = |bytes: &[u8]| check(bytes, &Hello::Bad);
    let one = names(&[(0, b"a.example")]);
    bad(&with(&[one.clone(), one.clone()]));
    bad(&with(&[one.clone(), names(&[(0, b"b.example")])]));
    bad(&with(&[names(&[(0, b"a.example"), (0, b"b.example")])]));
    bad(&with(&[names(&[(0, b"a.example"), (1, b"b.example")])]));
    bad(&with(&[names(&[(1, b"a.example")])]));
    bad(&with(&[names(&[])]));
    bad(&with(&[extension(SERVER_NAME, b"")]));
    bad(&with(&[extension(SERVER_NAME, &[&long(b"\0\0\x01a")[..], b"x"].concat())]));
    bad(&with(&[extension(10, b""), one.clone(), extension(10, b"")]));
    bad(&with(&[one.clone(), vec![0]]));

    let whole = body(Some(std::slice::from_ref(&one)));
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = whole.clone();
        change(&mut body);
        bad(&records(&message(&body), MAX_RECORD));
    };
    changed(&|body| body.push(0));
    changed(&|body| body.truncate(body.len() - 1));
    changed(&|body| body.truncate(20));
    changed(&|body| body.clear());
    changed(&|body| body[0] = 2);
    changed(&|body| body[34] = 33);

    let message = message(&whole);
    let good = records(&message, MAX_RECORD);
    check(&good, &tls(Some("a.example")));
    // Another message, an empty record, a longer one than there can be, and one too many.
    bad(&records(&[&message[..], b"\x01"].concat(), MAX_RECORD));
    bad(&records(&[&[2], &message[1..]].concat(), MAX_RECORD));
    bad(&[b"\x16\x03\x01\0\0", &good[..]].concat());
    bad(b"\x16\x03\x01\x40\x01\x01");
    bad(b"\x16\x03\x01\0\x04\x01\xff\0\0");
    bad(b"\x16\x03\x01\0\x01\x01\x17\x03\x01\0\x01");
    let large = with(&[extension(21, &vec![0; MAX_HELLO - 200])]);
    assert!(matches!(hello(&large), Hello::Tls { .. }) && large.len() <= MAX_HELLO);
    bad(&with(&[extension(21, &vec![0; MAX_HELLO])]));
}

proptest! {
    #[test]
    fn what_came_later_changes_nothing(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        cut in 0usize..300,
        fix in 0usize..4,
    ) {
        let start = b"\x16\x03\x01\0\x60\x01\0\0\x5c\x03\x03";
        let fixed = [0, 2, 6, start.len()][fix].min(bytes.len());
        bytes[..fixed].copy_from_slice(&start[..fixed]);
        let early = hello(&bytes[..cut.min(bytes.len())]);
        if early != Hello::More {
            prop_assert_eq!(hello(&bytes), early);
        }
    }

    #[test]
    fn a_changed_hello_never_asks_for_more_than_it_may(at in 0usize..400, byte in any::<u8>(), size in 10usize..200) {
        let whole = message(&body(Some(&[names(&[(0, b"a.example")]), extension(ENCRYPTED_CLIENT_HELLO, b"x")])));
        let mut bytes = records(&whole, size);
        let at = at % bytes.len();
        bytes[at] = byte;
        let mut decided = Hello::More;
        for cut in 0..=bytes.len() {
            let found = hello(&bytes[..cut]);
            prop_assert!(decided == Hello::More || decided == found);
            decided = found;
        }
        bytes.resize(MAX_HELLO, 0);
        prop_assert!(hello(&bytes) != Hello::More);
    }
}
