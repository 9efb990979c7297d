//! Images that umoci made, from Debian's registry and from the files that skopeo writes.

use crate::servers::{Answer, Impostor, RealRegistry, run};
use crate::store;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{
    Limits, PullError, PullOptions, Pulled, RegistryCredentials, Rules, Source, Store, Worker, import, pull,
};
use model::image::ImageUser;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a pull takes from a registry on loopback without TLS, which the operator named.
pub fn options(reference: &str) -> PullOptions {
    let reference: image::Reference = reference.parse().unwrap();
    let plain = vec![reference.registry.clone()];
    PullOptions { reference, credentials: None, rules: Rules { plain, ..Rules::default() }, signed_by: None }
}

pub fn pulled(options: &PullOptions, store: &Store, worker: &Worker) -> Result<Pulled, PullError> {
    pull(options, store, worker, &Limits::default(), &mut |_| {})
}

/// What lies in a store, and in its folder of layers.
pub fn contents(store: &Store) -> Vec<String> {
    let list = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let mut found = list(store.dir());
    found.extend(list(&store.dir().join("layers")).into_iter().map(|name| format!("layers/{name}")));
    found.sort();
    found
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A tar of files, made by tar(1).
pub fn tar(dir: &Path, name: &str, files: &[(&str, &[u8])]) -> String {
    let root = dir.join(format!("{name}-root"));
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let path = dir.join(format!("{name}.tar")).display().to_string();
    run(
        "tar",
        &["--numeric-owner", "--owner=0", "--group=0", "-C", &root.display().to_string(), "-cf", &path, "."],
    );
    path
}

/// A layout with images of the given layers, by umoci.
pub fn layout(dir: &Path, images: &[(&str, &[&str])]) -> String {
    let layout = dir.join("layout").display().to_string();
    if !dir.join("layout").exists() {
        run("umoci", &["init", "--layout", &layout]);
    }
    for (tag, layers) in images {
        let image = format!("{layout}:{tag}");
        run("umoci", &["new", "--image", &image]);
        for layer in *layers {
            run("umoci", &["raw", "add-layer", "--image", &image, layer]);
        }
    }
    layout
}

/// Two images that share their lower layer.
fn two_images(dir: &Path) -> String {
    let filler: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let passwd = b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n";
    let base = tar(
        dir,
        "base",
        &[("bin/sh", b"#!"), ("etc/passwd", passwd), ("filler", &filler), ("gone/file", b"x")],
    );
    let one = tar(dir, "one", &[("one", b"1"), (".wh.gone", b"")]);
    let two = tar(dir, "two", &[("two", b"2")]);
    let layout = layout(dir, &[("one", &[&base, &one]), ("two", &[&base, &two])]);
    let settings = ["--config.user", "web", "--config.entrypoint", "/bin/sh", "--config.cmd", "serve"];
    let more = ["--config.env", "MODE=test", "--config.workingdir", "/app"];
    let image = format!("{layout}:one");
    run("umoci", &[&["config", "--image", &image], &settings[..], &more[..]].concat());
    layout
}

pub fn images_of_a_real_registry_are_pulled(worker: &Worker) {
    let (dir, store) = store();
    let layout = two_images(dir.path());
    let registry = RealRegistry::start(dir.path(), "", "");
    registry.push(&format!("{layout}:one"), "own/app:1", &[]);
    let plain = format!("dir:{}", dir.path().join("plain").display());
    run("skopeo", &["copy", "--insecure-policy", "--dest-decompress", &format!("oci:{layout}:one"), &plain]);
    let zstd = format!("docker://{}/own/app:zstd", registry.host());
    let copy = [
        "copy",
        "--insecure-policy",
        "--dest-tls-verify=false",
        "--dest-compress-format",
        "zstd",
        "--format",
        "oci",
    ];
    run("skopeo", &[&copy[..], &[&plain, &zstd]].concat());
    registry.push(&format!("{layout}:two"), "own/app:2", &[]);
    let host = registry.host();

    let mut last = None;
    let first =
        pull(&options(&format!("{host}/own/app:1")), &store, worker, &Limits::default(), &mut |progress| {
            assert!(progress.percent >= last, "{progress:?} after {last:?}");
            last = progress.percent;
        });
    let first = first.unwrap();
    assert_eq!(last, Some(100));
    assert!(first.downloaded > 1_000_000, "{}", first.downloaded);
    let config = &first.image.config;
    assert_eq!(
        (&config.entrypoint[..], &config.cmd[..]),
        (&["/bin/sh".to_owned()][..], &["serve".to_owned()][..])
    );
    assert_eq!(config.cwd.as_deref(), Some("/app"));
    assert_eq!(config.env.get("MODE").map(String::as_str), Some("test"));
    assert_eq!(config.user, Some(ImageUser { uid: 101, gid: 102, name: Some("web".to_owned()) }));

    // Again: there already. By its digest: the same. By another: there is none.
    assert_eq!(pulled(&options(&format!("{host}/own/app:1")), &store, worker).unwrap().downloaded, 0);
    let pin = format!("{host}/own/app@sha256:{}", first.digest);
    assert_eq!(pulled(&options(&pin), &store, worker).unwrap().image, first.image);
    let other = format!("{host}/own/app@sha256:{}", "0".repeat(64));
    assert!(matches!(pulled(&options(&other), &store, worker), Err(PullError::Missing(_))));
    assert!(matches!(
        pulled(&options(&format!("{host}/own/none:1")), &store, worker),
        Err(PullError::Missing(_))
    ));

    // What shares a layer downloads the rest only; what is packed in another way is the same image.
    let second = pulled(&options(&format!("{host}/own/app:2")), &store, worker).unwrap();
    assert!(second.downloaded < 10_000, "{}", second.downloaded);
    let packed = pulled(&options(&format!("{host}/own/app:zstd")), &store, worker).unwrap();
    assert_eq!(packed.image.digest, first.image.digest);
    assert_ne!(packed.digest, first.digest);

    // An index leads to this machine's manifest, and its own digest is what a pin names.
    let url = format!("http://{host}/v2/own/app/manifests/");
    let size = run(
        "curl",
        &["-sSf", "-H", "accept: application/vnd.oci.image.manifest.v1+json", &format!("{url}1")],
    )
    .len();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let digest = format!("sha256:{}", first.digest);
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        { "mediaType": kind, "digest": digest, "size": size, "platform": { "os": "linux", "architecture": own } } ] });
    let index = index.to_string();
    let kind = "content-type: application/vnd.oci.image.index.v1+json";
    run("curl", &["-sSf", "-X", "PUT", "-H", kind, "-d", &index, &format!("{url}multi")]);
    let multi = pulled(&options(&format!("{host}/own/app:multi")), &store, worker).unwrap();
    assert_eq!(multi.image, first.image);
    assert_eq!(format!("sha256:{}", multi.digest), sha256(index.as_bytes()));

    // The kernel agrees about what is in it.
    let script = "mount -t erofs -o ro \"$0\" \"$1\" 2>/dev/null || mount -t erofs -o ro,loop \"$0\" \"$1\"
        cd \"$1\" && cat one && test ! -e gone && test -d app && sha256sum filler";
    let mounted = dir.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc", script]).arg(store.path(&first.image.digest)).arg(&mounted);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn files_of_other_tools_are_imported(worker: &Worker) {
    let (dir, store) = store();
    let layout = two_images(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let copy = |image: &str, to: &str| {
        run("skopeo", &["copy", "--insecure-policy", &format!("oci:{layout}:{image}"), to])
    };
    copy("one", &format!("oci-archive:{}:one", path("archive.tar")));
    copy("one", &format!("docker-archive:{}:own/app:1", path("saved.tar")));
    run("gzip", &["-k", &path("saved.tar")]);
    let imported = |name: &str, tag: Option<&str>| {
        let source = Source::open(Path::new(&path(name))).unwrap();
        import(source, tag, &store, worker, &Limits::default(), &mut |_| {})
    };
    let first = imported("archive.tar", None).unwrap();
    assert_eq!(first.config.user.as_ref().map(|user| user.uid), Some(101));
    for (name, tag) in [("saved.tar", Some("own/app:1")), ("saved.tar.gz", None), ("layout", Some("one"))] {
        assert_eq!(imported(name, tag).unwrap(), first, "{name}");
    }
    let several = imported("layout", None).unwrap_err().to_string();
    assert!(several.contains("several images: one, two"), "{several}");
    assert_ne!(imported("layout", Some("two")).unwrap().digest, first.digest);
}

pub fn passwords_and_certificates_are_asked_for(worker: &Worker) {
    let (dir, store) = store();
    let layout = two_images(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &path("key.pem"),
            "-out",
            &path("cert.pem"),
        ],
    );
    // bcrypt of "secret".
    fs::write(path("htpasswd"), "me:$2b$04$oVi5GPjT6PskKaFe.CCo3ua/nRz/zwpsNcN9qHlLBEWn2cGAH/zuy\n").unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path("htpasswd"));
    let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", path("cert.pem"), path("key.pem"));
    let registry = RealRegistry::start(dir.path(), &auth, &tls);
    registry.push(&format!("{layout}:two"), "own/app:1", &["--dest-creds", "me:secret"]);

    let host: image::Host = registry.host().parse().unwrap();
    let password = |password: &str| {
        Some(RegistryCredentials::Password { username: "me".to_owned(), password: password.to_owned() })
    };
    let authority = fs::read_to_string(path("cert.pem")).unwrap();
    let with = |credentials, authorities| PullOptions {
        reference: format!("{host}/own/app:1").parse().unwrap(),
        credentials,
        rules: Rules { open: vec![host.clone()], plain: Vec::new(), authorities },
        signed_by: None,
    };
    let denied = |options: &PullOptions| match pulled(options, &store, worker) {
        Err(PullError::Denied(why)) => assert!(why.contains(&host.to_string()), "{why}"),
        other => panic!("{other:?}"),
    };
    denied(&with(None, Some(authority.clone())));
    denied(&with(password("wrong"), Some(authority.clone())));
    // Nobody vouches for it, or it speaks TLS where none is wanted.
    match pulled(&with(password("secret"), None), &store, worker) {
        Err(PullError::Refused(why)) => assert!(why.contains("certificate"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(pulled(&options(&format!("{host}/own/app:1")), &store, worker).is_err());
    assert_eq!(contents(&store), Vec::<String>::new());
    let got = pulled(&with(password("secret"), Some(authority)), &store, worker).unwrap();
    assert!(got.downloaded > 1_000_000);
}

/// What a registry holds: by path.
pub struct Shelf(pub Vec<(String, Vec<u8>)>);

impl Shelf {
    /// One image of these packed layers, as `app:1`. `change` may make its documents lie.
    pub fn of(layers: &[&[u8]], change: impl Fn(&mut Value)) -> Self {
        let unpacked = |layer: &&[u8]| {
            let mut plain = Vec::new();
            match flate2::read::MultiGzDecoder::new(&layer[..]) {
                mut decoder if layer.starts_with(&[0x1f, 0x8b]) => {
                    std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
                }
                _ => plain.extend_from_slice(layer),
            }
            sha256(&plain)
        };
        let diff_ids: Vec<String> = layers.iter().map(unpacked).collect();
        Self::with_diff_ids(layers, &diff_ids, change)
    }

    pub fn with_diff_ids(layers: &[&[u8]], diff_ids: &[String], change: impl Fn(&mut Value)) -> Self {
        let config =
            json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
        let of = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": sha256(bytes), "size": bytes.len() });
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        let mut manifest = json!({
            "schemaVersion": 2,
            "config": of("application/vnd.oci.image.config.v1+json", config.as_bytes()),
            "layers": layers.iter().map(|layer| of(kind, layer)).collect::<Vec<_>>(),
        });
        change(&mut manifest);
        let mut shelf = Self(Vec::new());
        shelf.add_manifest("1", manifest.to_string().as_bytes());
        shelf.add_blob(config.as_bytes());
        layers.iter().for_each(|layer| shelf.add_blob(layer));
        shelf
    }

    pub fn add_manifest(&mut self, tag: &str, bytes: &[u8]) {
        for name in [tag, &sha256(bytes)] {
            self.0.push((format!("/v2/app/manifests/{name}"), bytes.to_vec()));
        }
    }

    pub fn add_blob(&mut self, bytes: &[u8]) {
        self.0.push((format!("/v2/app/blobs/{}", sha256(bytes)), bytes.to_vec()));
    }

    /// The honest answer, parts included.
    pub fn answer(&self, asked: &crate::servers::Asked) -> Answer {
        let Some((_, body)) = self.0.iter().find(|(path, _)| *path == asked.path) else {
            return Answer::status(404);
        };
        match asked.from {
            Some(from) if from < body.len() => Answer {
                status: 206,
                headers: vec![(
                    "content-range".to_owned(),
                    format!("bytes {from}-{}/{}", body.len() - 1, body.len()),
                )],
                body: body[from..].to_vec(),
                cut: None,
            },
            Some(_) => Answer::status(416),
            None => Answer::ok(body.clone()),
        }
    }
}

/// A layer with one large file, packed not at all: content that nothing compresses.
pub fn large_layer(dir: &Path) -> Vec<u8> {
    let filler: Vec<u8> = (0..600_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::read(tar(dir, "large", &[("bin/sh", b"#!"), ("filler", &filler)])).unwrap()
}

pub fn a_cut_download_goes_on(worker: &Worker) {
    let (dir, store) = store();
    let layer = large_layer(dir.path());
    let size = layer.len();
    let shelf = Arc::new(Shelf::of(&[&layer], |_| ()));
    let blob = shelf.0.last().unwrap().0.clone();

    // Within one pull: three cuts, each answer goes on where the last one ended.
    let (own, shelf_one) = (blob.clone(), shelf.clone());
    let cuts = AtomicUsize::new(0);
    let server = Impostor::start(move |asked| {
        let answer = shelf_one.answer(asked);
        let cut = asked.path == own && cuts.fetch_add(1, Ordering::Relaxed) < 3;
        Answer { cut: cut.then_some(answer.body.len() / 3), ..answer }
    });
    let got = pulled(&options(&format!("{}/app:1", server.host())), &store, worker).unwrap();
    let parts: Vec<_> =
        server.asked().into_iter().filter(|asked| asked.path == blob).map(|asked| asked.from).collect();
    assert_eq!(parts.len(), 4, "{parts:?}");
    assert!(parts[0].is_none() && parts[1..].windows(2).all(|two| two[0] < two[1]), "{parts:?}");
    assert!(parts[1] == Some(size / 3), "{parts:?}");

    // From one pull to the next: a registry that went away, and came back at the same place.
    let (_dir, store) = crate::store();
    let (own, shelf_two) = (blob.clone(), shelf.clone());
    let away = Arc::new(Mutex::new(true));
    let gone = away.clone();
    let server = Impostor::start(move |asked| {
        let answer = shelf_two.answer(asked);
        if asked.path != own || !*gone.lock().unwrap() {
            return answer;
        }
        // A part once, and from then on nothing but errors.
        if asked.from.is_none() { Answer { cut: Some(size / 2), ..answer } } else { Answer::status(503) }
    });
    let options = options(&format!("{}/app:1", server.host()));
    assert!(matches!(pulled(&options, &store, worker), Err(PullError::Unavailable(_))));
    assert!(contents(&store).iter().any(|name| name.ends_with(".partial")), "{:?}", contents(&store));
    *away.lock().unwrap() = false;
    assert_eq!(pulled(&options, &store, worker).unwrap().image, got.image);
    let last = server.asked().into_iter().rfind(|asked| asked.path == blob).unwrap();
    assert_eq!(last.from, Some(size / 2));
    assert!(!contents(&store).iter().any(|name| name.ends_with(".partial")), "{:?}", contents(&store));

    // A registry that knows no parts sends all of it once more.
    let (_dir, store) = crate::store();
    let own = blob;
    let cuts = AtomicUsize::new(0);
    let server = Impostor::start(move |asked| {
        let whole = shelf.answer(&crate::servers::Asked { from: None, ..asked.clone() });
        let cut = asked.path == own && cuts.fetch_add(1, Ordering::Relaxed) < 1;
        Answer { cut: cut.then_some(size / 2), ..whole }
    });
    let options = crate::pull::options(&format!("{}/app:1", server.host()));
    assert_eq!(pulled(&options, &store, worker).unwrap().image, got.image);
}

pub fn layers_are_shared_by_who_may_have_them(worker: &Worker) {
    let (dir, store) = store();
    let layer = large_layer(dir.path());
    let size = layer.len() as u64;
    let top = fs::read(tar(dir.path(), "top", &[("top", b"t")])).unwrap();
    let shelf = |layers: &[&[u8]]| {
        let shelf = Shelf::of(layers, |_| ());
        Impostor::start(move |asked| shelf.answer(asked))
    };
    let owner = shelf(&[&layer]);
    let at = |server: &Impostor| options(&format!("{}/app:1", server.host()));
    assert_eq!(pulled(&at(&owner), &store, worker).unwrap().downloaded, size);

    // Another registry names the layer, says that one may have it, and does not have it: it gets nobody the content.
    let shelf_of_thief = Shelf::of(&[&layer, &top], |_| ());
    let stolen = format!("/v2/app/blobs/{}", sha256(&layer));
    let thief = Impostor::start(move |asked| match asked.method.as_str() {
        "HEAD" => Answer::status(200),
        _ if asked.path == stolen => Answer::status(404),
        _ => shelf_of_thief.answer(asked),
    });
    assert!(matches!(pulled(&at(&thief), &store, worker), Err(PullError::Missing(_))));
    // The same for an image that is there already as a whole.
    let whole = Shelf::of(&[&layer], |_| ());
    let stolen = format!("/v2/app/blobs/{}", sha256(&layer));
    let thief = Impostor::start(move |asked| match asked.method.as_str() {
        "HEAD" => Answer::status(200),
        _ if asked.path == stolen => Answer::status(404),
        _ => whole.answer(asked),
    });
    assert!(matches!(pulled(&at(&thief), &store, worker), Err(PullError::Missing(_))));

    // The registry that gave it is believed, and asked: it may have changed its mind.
    assert_eq!(pulled(&at(&owner), &store, worker).unwrap().downloaded, 0);
    let asked = owner.asked();
    assert_eq!(asked.last().unwrap().method, "HEAD", "{asked:?}");
}

pub fn signatures_are_required(worker: &Worker) {
    let (dir, store) = store();
    let layer = fs::read(tar(dir.path(), "small", &[("bin/sh", b"#!")])).unwrap();
    let own = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let other = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let info = [
        &[
            0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
            0x3d, 3, 1, 7, 3, 0x42, 0,
        ],
        own.public_key().as_ref(),
    ]
    .concat();
    let key = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(info));
    let key: image::PublicKey = key.parse().unwrap();

    let payload_of = |digest: &str| {
        let payload = json!({ "critical": { "identity": { "docker-reference": "a.test/app" },
            "image": { "docker-manifest-digest": digest }, "type": "cosign container image signature" }, "optional": null });
        payload.to_string().into_bytes()
    };
    let sign = |pair: &EcdsaKeyPair, payload: &[u8]| {
        STANDARD.encode(pair.sign(&SystemRandom::new(), payload).unwrap().as_ref())
    };
    let serve = |signatures: Vec<(Vec<u8>, String)>| {
        let mut shelf = Shelf::of(&[&layer], |_| ());
        let digest = sha256(&shelf.0[0].1);
        let layers: Vec<Value> = signatures
            .iter()
            .map(|(payload, signature)| {
                json!({ "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "size": payload.len(),
                    "digest": sha256(payload), "annotations": { "dev.cosignproject.cosign/signature": signature } })
            })
            .collect();
        if !layers.is_empty() {
            let config = json!({ "mediaType": "x", "digest": sha256(b"{}"), "size": 2 });
            let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers }).to_string();
            shelf.add_manifest(&format!("{}.sig", digest.replace(':', "-")), manifest.as_bytes());
            signatures.iter().for_each(|(payload, _)| shelf.add_blob(payload));
        }
        let server = Impostor::start(move |asked| shelf.answer(asked));
        let options = PullOptions {
            signed_by: Some(image::Signer::Key(key.clone())),
            ..options(&format!("{}/app:1", server.host()))
        };
        pulled(&options, &store, worker)
    };
    let digest = sha256(&Shelf::of(&[&layer], |_| ()).0[0].1);
    let payload = payload_of(&digest);
    let elsewhere = payload_of(&sha256(b"another image"));
    let refused = |got: Result<Pulled, PullError>, why: &str| match got {
        Err(PullError::Signature(error)) => assert!(error.to_string().contains(why), "{error}"),
        other => panic!("{other:?}"),
    };
    refused(serve(Vec::new()), "is not signed");
    refused(serve(vec![(payload.clone(), sign(&other, &payload))]), "none of the 1 signatures");
    refused(serve(vec![(payload.clone(), "bm9uZQ==".to_owned())]), "none of the 1 signatures");
    refused(serve(vec![(payload.clone(), "***".to_owned())]), "none of the 1 signatures");
    // Right, and for another image; and of another payload.
    refused(serve(vec![(elsewhere.clone(), sign(&own, &elsewhere))]), "none of the 1 signatures");
    refused(serve(vec![(payload.clone(), sign(&own, &elsewhere))]), "none of the 1 signatures");
    assert_eq!(contents(&store), Vec::<String>::new());
    let both = vec![(payload.clone(), sign(&other, &payload)), (payload.clone(), sign(&own, &payload))];
    assert!(serve(both).is_ok());
}
