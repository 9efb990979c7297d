//! Registries and images that mean harm: each is refused with its reason, and leaves nothing behind.

use crate::pull::{Shelf, contents, layout, options, pulled, sha256, tar};
use crate::servers::{Answer, Asked, Impostor, RealRegistry, run};
use crate::store;
use image::{
    ImportError, Limits, PullError, PullOptions, RegistryCredentials, Rules, Source, Store, Worker, import,
};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;

fn small(dir: &Path) -> Vec<u8> {
    fs::read(tar(dir, "small", &[("bin/sh", b"#!")])).unwrap()
}

#[track_caller]
fn refused(options: &PullOptions, store: &Store, worker: &Worker, why: &str) {
    match pulled(options, store, worker) {
        Err(PullError::Refused(said)) => assert!(said.contains(why), "expected {why:?} in {said:?}"),
        Err(error @ PullError::Lied { .. }) => assert!(error.to_string().contains(why), "{error}"),
        other => panic!("expected {why:?}, got {other:?}"),
    }
    let left: Vec<String> = contents(store).into_iter().filter(|name| name != "layers").collect();
    assert_eq!(left, Vec::<String>::new(), "{why}");
}

pub fn private_addresses_are_refused(worker: &Worker) {
    let (dir, store) = store();
    let shelf = Shelf::of(&[&small(dir.path())], |_| ());
    let server = Impostor::start(move |asked| shelf.answer(asked));
    let reference = format!("{}/app:1", server.host());
    let closed = |reference: &str| PullOptions {
        reference: reference.parse().unwrap(),
        rules: Rules::default(),
        ..options(reference)
    };
    // Neither by address nor by name, in whatever spelling: and nobody is asked.
    refused(&closed(&reference), &store, worker, "of this machine");
    refused(&closed(&format!("localhost:{}/app:1", server.port)), &store, worker, "of this machine");
    refused(&closed("169.254.169.254/app:1"), &store, worker, "metadata");
    refused(&closed("[::1]:5000/app:1"), &store, worker, "of this machine");
    refused(&closed("[::ffff:169.254.169.254]/app:1"), &store, worker, "disguise");
    refused(&closed("10.0.0.1/app:1"), &store, worker, "private");
    // The forms of an address that inet_aton(3) knows are the address that they mean.
    refused(&closed("0x7f.1/app:1"), &store, worker, "of this machine");
    refused(&closed("127.1:5000/app:1"), &store, worker, "of this machine");
    assert!(server.asked().is_empty(), "{:?}", server.asked());
    // Another port of the host that was opened is not opened.
    let mut other = options(&reference);
    other.rules.plain = vec!["127.0.0.1:1".parse().unwrap()];
    refused(&other, &store, worker, "of this machine");
    // Opened, but not for being without TLS: what it speaks then is no TLS.
    let mut open = options(&reference);
    open.rules = Rules { open: std::mem::take(&mut open.rules.plain), ..Rules::default() };
    assert!(matches!(pulled(&open, &store, worker), Err(PullError::Unavailable(_))));

    // Where a registry sends us: to the metadata service, to another port here, away from TLS, in circles.
    let target = server.host();
    let redirects = [
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "without TLS"),
        ("https://169.254.169.254/latest/meta-data/".to_owned(), "metadata"),
        (format!("https://{target}/v2/app/manifests/1"), "of this machine"),
        (format!("http://{target}/v2/app/manifests/1"), "without TLS"),
        ("https://[::ffff:127.0.0.1]/".to_owned(), "disguise"),
        ("https://localhost/".to_owned(), "of this machine"),
        ("file:///etc/shadow".to_owned(), "of the kind file"),
        ("/v2/app/manifests/1".to_owned(), "redirects more than"),
    ];
    for (to, why) in redirects {
        let sender = Impostor::start(move |_| Answer::status(307).header("location", &to));
        refused(&options(&format!("{}/app:1", sender.host())), &store, worker, why);
    }
    // A layer that lies elsewhere is as common as it is dangerous.
    let shelf = Shelf::of(&[&small(dir.path())], |_| ());
    let sender = Impostor::start(move |asked| match asked.path.contains("/blobs/") {
        true => Answer::status(307).header("location", "https://192.168.0.1/blob"),
        false => shelf.answer(asked),
    });
    refused(&options(&format!("{}/app:1", sender.host())), &store, worker, "private");

    // A realm for tokens is an address like any other.
    let realms = [
        ("https://169.254.169.254/token".to_owned(), "metadata"),
        (format!("https://{target}/token"), "of this machine"),
        (format!("http://{target}/token"), "without TLS"),
        ("gopher://x/".to_owned(), "of the kind gopher"),
        ("not a url".to_owned(), "no realm"),
    ];
    for (realm, why) in realms {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
        let sender = Impostor::start(move |_| Answer::status(401).header("www-authenticate", &challenge));
        refused(&options(&format!("{}/app:1", sender.host())), &store, worker, why);
    }
    assert!(server.asked().is_empty(), "{:?}", server.asked());
}

pub fn credentials_stay_with_the_registry(worker: &Worker) {
    let (dir, store) = store();
    let layer = small(dir.path());
    let blob = format!("/v2/app/blobs/{}", sha256(&layer));
    let me =
        || Some(RegistryCredentials::Password { username: "me".to_owned(), password: "secret".to_owned() });

    // Tokens: the realm gets the password, the registry the token, and the place where layers lie gets neither.
    let shelf = Shelf::of(&[&layer], |_| ());
    let elsewhere = Impostor::start(move |asked: &Asked| shelf.answer(asked));
    let realm = Impostor::start(|_| Answer::ok(r#"{"token": "tok", "expires_in": 60}"#));
    let challenge = format!("Bearer realm=\"http://{}/token?x=1\",service=\"s\"", realm.host());
    let shelf = Shelf::of(&[&layer], |_| ());
    let to = format!("http://{}{blob}", elsewhere.host());
    let registry = Impostor::start(move |asked| match &asked.authorization {
        None => Answer::status(401).header("www-authenticate", &challenge),
        Some(_) if asked.path == blob => Answer::status(307).header("location", &to),
        Some(_) => shelf.answer(asked),
    });
    let mut options = options(&format!("{}/app:1", registry.host()));
    for host in [realm.host(), elsewhere.host()] {
        options.rules.plain.push(host.parse().unwrap());
    }
    options.credentials = me();
    pulled(&options, &store, worker).unwrap();
    let asked = realm.asked();
    assert_eq!(asked.len(), 1, "one token serves the whole pull: {asked:?}");
    assert_eq!(asked[0].authorization.as_deref(), Some("Basic bWU6c2VjcmV0"));
    assert_eq!(asked[0].path, "/token?x=1&service=s&scope=repository%3Aapp%3Apull");
    assert!(
        registry.asked().iter().skip(1).all(|asked| asked.authorization.as_deref() == Some("Bearer tok"))
    );
    assert!(!elsewhere.asked().is_empty());
    assert!(elsewhere.asked().iter().all(|asked| asked.authorization.is_none()));

    // Nobody gets a password that did not ask for it, and a realm that sends us on does not take it along.
    let shelf = Shelf::of(&[&layer], |_| ());
    let quiet = Impostor::start(move |asked| shelf.answer(asked));
    let (_dir, store) = crate::store();
    let asks =
        |host: String| PullOptions { credentials: me(), ..crate::pull::options(&format!("{host}/app:1")) };
    pulled(&asks(quiet.host()), &store, worker).unwrap();
    assert!(quiet.asked().iter().all(|asked| asked.authorization.is_none()));
    let thief = Impostor::start(|_| Answer::ok("{}"));
    let to = format!("http://{}/", thief.host());
    let realm = Impostor::start(move |_| Answer::status(302).header("location", &to));
    let challenge = format!("Bearer realm=\"http://{}/token\"", realm.host());
    let registry = Impostor::start(move |_| Answer::status(401).header("www-authenticate", &challenge));
    let mut options = asks(registry.host());
    options.rules.plain.extend([realm.host(), thief.host()].map(|host| host.parse().unwrap()));
    let (_dir, store) = crate::store();
    refused(&options, &store, worker, "redirects elsewhere");
    assert!(thief.asked().is_empty());

    // Identity tokens go to the realm in the body of a request, and nowhere else.
    let realm = Impostor::start(|asked| match asked.method.as_str() {
        "POST" => Answer::ok(r#"{"access_token": "tok"}"#),
        _ => Answer::status(400),
    });
    let challenge = format!("Bearer realm=\"http://{}/token\"", realm.host());
    let shelf = Shelf::of(&[&layer], |_| ());
    let registry = Impostor::start(move |asked| match asked.authorization.as_deref() {
        Some("Bearer tok") => shelf.answer(asked),
        _ => Answer::status(401).header("www-authenticate", &challenge),
    });
    let mut options = asks(registry.host());
    options.credentials = Some(RegistryCredentials::Identity("kept".to_owned()));
    options.rules.plain.push(realm.host().parse().unwrap());
    pulled(&options, &store, worker).unwrap();
}

pub fn registries_that_lie_are_refused(worker: &Worker) {
    let (dir, store) = store();
    let layer = small(dir.path());
    let serve = |shelf: Shelf| Impostor::start(move |asked| shelf.answer(asked));
    let at = |server: &Impostor| options(&format!("{}/app:1", server.host()));
    let check = |shelf: Shelf, why: &str| refused(&at(&serve(shelf)), &store, worker, why);

    // Content that is not what its name says: manifest, configuration, layer.
    let pin = "0".repeat(64);
    let mut shelf = Shelf::of(&[&layer], |_| ());
    let manifest = shelf.0[0].1.clone();
    shelf.0.push((format!("/v2/app/manifests/sha256:{pin}"), manifest.clone()));
    let server = serve(shelf);
    refused(&options(&format!("{}/app@sha256:{pin}", server.host())), &store, worker, "something else");
    for index in [2, 3] {
        let mut shelf = Shelf::of(&[&layer], |_| ());
        let last = shelf.0[index].1.len() - 10;
        shelf.0[index].1[last] ^= 1;
        check(shelf, if index == 2 { "something else" } else { "the manifest says" });
    }
    // Sizes: more and fewer bytes than there are, more than may be, more than the disk has.
    let size = layer.len() as i64;
    let sized = |size: i64| Shelf::of(&[&layer], move |manifest| manifest["layers"][0]["size"] = json!(size));
    check(sized(size - 1), "more than the");
    check(sized(size + 1), "fewer bytes");
    check(sized(-1), "not valid");
    check(sized(1 << 45), "images.bytes");
    check(sized(i64::MAX), "images.bytes");
    check(Shelf::of(&[&layer], |manifest| manifest["config"]["size"] = json!(1u64 << 40)), "too large");
    // An answer that never ends, and one that announces what it does not send.
    let shelf = Shelf::of(&[&layer], |_| ());
    let endless = Impostor::start(move |asked| match asked.path.contains("/manifests/") {
        true => Answer::ok(vec![b' '; 5 << 20]),
        false => shelf.answer(asked),
    });
    refused(&at(&endless), &store, worker, "more than the");
    let short = Impostor::start(|_| Answer { cut: Some(10), ..Answer::ok(vec![b' '; 100]) });
    assert!(matches!(pulled(&at(&short), &store, worker), Err(PullError::Unavailable(_))));
    // Another part than the one that was asked for.
    let shelf = Shelf::of(&[&layer], |_| ());
    let shifted = Impostor::start(move |asked| {
        let answer = shelf.answer(asked);
        let cut = (asked.path.contains("/blobs/") && answer.body.len() > 1000).then_some(500);
        match asked.from {
            Some(_) => {
                Answer { headers: vec![("content-range".to_owned(), "bytes 3-9/10".to_owned())], ..answer }
            }
            None => Answer { cut, ..answer },
        }
    });
    refused(&at(&shifted), &store, worker, "another part");

    // Documents: no JSON, deep JSON, both kinds at once, nothing for here, indexes in each other without an end.
    let says = |body: &[u8]| {
        let mut shelf = Shelf(Vec::new());
        shelf.add_manifest("1", body);
        shelf
    };
    check(says(b"<html>"), "not JSON");
    check(says(&b"[".repeat(100_000)), "not valid");
    check(says(br#"{"schemaVersion": 1}"#), "schema version 1");
    check(says(br#"{"schemaVersion": 2, "manifests": [], "layers": [], "config": null}"#), "ambiguous");
    check(Shelf::of(&[&layer], |manifest| manifest["manifests"] = json!([])), "ambiguous");
    check(says(br#"{"schemaVersion": 2, "manifests": []}"#), "nothing for linux/");
    let own = format!("sha256:{}", "ab".repeat(32));
    let cycle = json!({ "schemaVersion": 2, "manifests": [{ "digest": own, "size": 1 }] }).to_string();
    let mut shelf = says(cycle.as_bytes());
    shelf.0.push((format!("/v2/app/manifests/{own}"), cycle.into_bytes()));
    check(shelf, "something else");
    let mut shelf = says(&manifest);
    let mut body = manifest;
    for depth in 0..7 {
        let index =
            json!({ "schemaVersion": 2, "manifests": [{ "digest": sha256(&body), "size": body.len() }] });
        body = index.to_string().into_bytes();
        shelf.add_manifest(&format!("deep{depth}"), &body);
    }
    let server = serve(shelf);
    refused(&options(&format!("{}/app:deep6", server.host())), &store, worker, "4 deep");
    let many = vec![json!({ "digest": sha256(b""), "size": 0 }); 201];
    check(Shelf::of(&[&layer], move |manifest| manifest["layers"] = json!(many)), "201 layers");
    let kind = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    check(
        Shelf::of(&[&layer], move |manifest| manifest["layers"][0]["mediaType"] = json!(kind)),
        "no container image",
    );
    let urls = json!(["https://169.254.169.254/"]);
    let kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    check(
        Shelf::of(&[&layer], move |manifest| {
            manifest["layers"][0]["urls"] = urls.clone();
            manifest["layers"][0]["mediaType"] = json!(kind);
        }),
        "fetched from elsewhere",
    );
    // The configuration speaks of other content.
    let lying = Shelf::with_diff_ids(&[&layer], &[sha256(b"other")], |_| ());
    match pulled(&at(&serve(lying)), &store, worker) {
        Err(PullError::Refused(why)) => assert!(why.contains("configuration says"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// An archive of single headers, honest or not.
fn raw(dir: &Path, name: &str, entries: &[(&str, u8, &str, &[u8])]) -> String {
    let mut bytes = Vec::new();
    for (path, kind, link, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[156] = *kind;
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(0o4755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    let path = dir.join(format!("{name}.tar"));
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

pub fn hostile_images_of_umoci_are_refused(worker: &Worker) {
    let (dir, store) = store();
    let dir = dir.path();
    let base =
        tar(dir, "base", &[("bin/sh", b"#!"), ("d/one", b"1"), ("etc/passwd", b"root:x:0:0::/:/bin/sh\n")]);
    type Entries<'a> = &'a [(&'a str, u8, &'a str, &'a [u8])];
    let cases: [(&str, Entries<'_>, &str); 10] = [
        ("traversal", &[("../../../../tmp/escape", b'0', "", b"x")], "`..`"),
        ("hardlink", &[("shadow", b'1', "../../../etc/shadow", b"")], "`..`"),
        ("absolute", &[("shadow", b'1', "/etc/shadow", b"")], "did not come before"),
        ("parent", &[("out", b'2', "/", b""), ("out/tmp/escape", b'0', "", b"x")], "symbolic link"),
        ("whiteout", &[("d/.wh...", b'0', "", b"")], ".wh."),
        ("opaque", &[("d/.wh..wh..opq/x", b'0', "", b"")], ".wh."),
        ("proc", &[("proc", b'2', "/etc", b"")], "/proc has to be a directory"),
        ("file", &[("d/one/x", b'0', "", b"x")], "not a directory"),
        ("terminal", &[("\x1b]0;x\x07/../x", b'0', "", b"x")], "`..`"),
        ("kind", &[("x", b'Z', "", b"")], "unknown type"),
    ];
    let registry = RealRegistry::start(dir, "", "");
    for (name, entries, why) in cases {
        let layer = raw(dir, name, entries);
        let layout = layout(dir, &[(name, &[&base, &layer])]);
        registry.push(&format!("{layout}:{name}"), &format!("evil:{name}"), &[]);
        match pulled(&options(&format!("{}/evil:{name}", registry.host())), &store, worker) {
            Err(PullError::Refused(said)) => {
                assert!(said.contains(why) && said.starts_with("the image was refused"), "{name}: {said}");
                assert!(!said.chars().any(char::is_control), "{said:?}");
            }
            other => panic!("{name}: {other:?}"),
        }
        // Layers came as they should, and may stay; an image there is none.
        assert_eq!(store.list().unwrap(), [], "{name}");
        assert!(
            !contents(&store).iter().any(|file| file.ends_with(".json") || file.contains("partial")),
            "{name}"
        );
    }
    assert!(!Path::new("/tmp/escape").exists());

    // Devices are left out, and setuid is what it is inside: a bit.
    let layer = raw(
        dir,
        "odd",
        &[("dev/sda", b'4', "", b""), ("dev/mem", b'3', "", b""), ("bin/su", b'0', "", b"#!su")],
    );
    let layout = layout(dir, &[("odd", &[&base, &layer])]);
    registry.push(&format!("{layout}:odd"), "evil:odd", &[]);
    let got = pulled(&options(&format!("{}/evil:odd", registry.host())), &store, worker).unwrap();
    assert_eq!(got.image.skipped_nodes, 2);
    let extracted = dir.join("extracted");
    run(
        "fsck.erofs",
        &[
            &format!("--extract={}", extracted.display()),
            &store.path(&got.image.digest).display().to_string(),
        ],
    );
    assert_eq!(fs::read_dir(extracted.join("dev")).unwrap().count(), 0);
}

/// A tar with one file of zeros in gzip members, of which most are the same: it is small and quickly made.
fn zeros(gib: u64) -> Vec<u8> {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let header = |name: &str, kind, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let mut start = header("usr/bin/", tar::EntryType::Directory, 0);
    start.extend(header("bin/sh", tar::EntryType::Regular, 0));
    start.extend(header("zeros", tar::EntryType::Regular, gib << 30));
    let member = gzip(&vec![0; 64 << 20]);
    let mut all = gzip(&start);
    (0..gib * 16).for_each(|_| all.extend(&member));
    all.extend(gzip(&[0; 1024]));
    all
}

pub fn ten_gigabytes_of_zeros_are_refused(worker: &Worker) {
    let (dir, store) = store();
    let path = dir.path().join("zeros.tar.gz");
    fs::write(&path, zeros(10)).unwrap();
    let source = || Source::open(&path).unwrap();
    let limits = Limits { bytes: 8 << 30, ..Limits::default() };
    match import(source(), None, &store, worker, &limits, &mut |_| {}) {
        Err(ImportError::Refused(why)) => assert!(why.contains("larger than 8589934592 bytes"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(contents(&store), Vec::<String>::new());
    // Let in, they take no room.
    fs::write(&path, zeros(1)).unwrap();
    let imported = import(source(), None, &store, worker, &limits, &mut |_| {}).unwrap();
    assert!(imported.size > 1 << 30);
    use std::os::unix::fs::MetadataExt;
    let blocks = fs::metadata(store.path(&imported.digest)).unwrap().blocks();
    assert!(blocks * 512 < 16 << 20, "{} bytes on disk", blocks * 512);
}

pub fn a_million_files_are_one_image(worker: &Worker) {
    let (dir, store) = store();
    let path = dir.path().join("many.tar");
    let mut out = std::io::BufWriter::new(fs::File::create(&path).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    let mut add = |name: &str, kind| {
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_cksum();
        out.write_all(header.as_bytes()).unwrap();
    };
    add("usr/", tar::EntryType::Directory);
    add("bin/sh", tar::EntryType::Regular);
    for n in 0..1_000_000 {
        add(&format!("many/{}/{n}", n / 10_000), tar::EntryType::Regular);
    }
    out.write_all(&[0; 1024]).unwrap();
    out.flush().unwrap();
    drop(out);
    let source = || Source::open(&path).unwrap();
    let imported = import(source(), None, &store, worker, &Limits::default(), &mut |_| {}).unwrap();
    assert_eq!(imported.entries, 1_000_002);
    let few = Limits { entries: 500_000, ..Limits::default() };
    match import(source(), None, &store, worker, &few, &mut |_| {}) {
        Err(ImportError::Refused(why)) => assert!(why.contains("more than 500000 entries"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.list().unwrap().len(), 1);
}

/// The process that speaks with registries is confined as the others are, but for the network.
pub fn the_downloader_reaches_no_files(worker: &Worker) {
    let (dir, store) = store();
    let program = dir.path().join("spy");
    fs::copy(&worker.program, &program).unwrap();
    match pulled(&options("127.0.0.1:1/app:1"), &store, &Worker { program, ..worker.clone() }) {
        Err(PullError::Import(ImportError::Worker { said, .. })) => {
            assert!(said.contains("reached: nothing"), "{said}");
        }
        other => panic!("{other:?}"),
    }
}
