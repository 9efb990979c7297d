//! Container images: layers on top of each other, documents, and what hostile ones try.

use super::{Archive, Header, gzip, unpacked};
use crate::archive::Counts;
use crate::import::Limits;
use crate::oci::ARCHITECTURE;
use crate::store::Digest;
use crate::{outer, worker};
use model::image::{ImageConfig, ImageUser};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{Cursor, Write};
use std::path::Path;

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", Digest::of(&Sha256::digest(bytes)))
}

/// A container image as it is written, honestly unless a test changes something.
#[derive(Clone)]
struct Container {
    layers: Vec<Vec<u8>>,
    /// The same, unpacked.
    diff_ids: Vec<String>,
    settings: Value,
    architecture: String,
}

impl Container {
    fn of(layers: impl IntoIterator<Item = Archive>) -> Self {
        let plain: Vec<Vec<u8>> = layers.into_iter().map(Archive::end).collect();
        let diff_ids = plain.iter().map(|layer| sha256(layer)).collect();
        Self { layers: plain, diff_ids, settings: json!({}), architecture: ARCHITECTURE.to_owned() }
    }

    fn packed(mut self, pack: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        self.layers = self.layers.iter().map(|layer| pack(layer)).collect();
        self
    }

    fn with(mut self, settings: Value) -> Self {
        self.settings = settings;
        self
    }

    fn config(&self) -> Vec<u8> {
        json!({
            "architecture": self.architecture, "os": "linux", "config": self.settings,
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids },
        })
        .to_string()
        .into_bytes()
    }

    fn manifest(&self) -> Value {
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layers: Vec<Value> = self.layers.iter().map(|layer| descriptor(kind, layer)).collect();
        let config = descriptor("application/vnd.oci.image.config.v1+json", &self.config());
        json!({ "schemaVersion": 2, "config": config, "layers": layers })
    }

    fn layout(&self) -> Layout {
        let mut layout = Layout::default();
        let manifest = layout.add_image(self);
        layout.index = vec![manifest];
        layout
    }
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": sha256(bytes), "size": bytes.len() })
}

/// An OCI layout.
#[derive(Clone, Default)]
struct Layout {
    blobs: Vec<(String, Vec<u8>)>,
    index: Vec<Value>,
}

impl Layout {
    fn add(&mut self, kind: &str, bytes: &[u8]) -> Value {
        self.blobs.push((sha256(bytes), bytes.to_vec()));
        descriptor(kind, bytes)
    }

    fn add_image(&mut self, container: &Container) -> Value {
        for layer in &container.layers {
            self.add("", layer);
        }
        self.add("", &container.config());
        let manifest = container.manifest().to_string();
        self.add("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())
    }

    fn add_index(&mut self, manifests: &[Value]) -> Value {
        let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
        self.add("application/vnd.oci.image.index.v1+json", index.as_bytes())
    }

    fn tar(&self) -> Vec<u8> {
        let index = json!({ "schemaVersion": 2, "manifests": self.index }).to_string();
        let mut tar = Archive::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        for (digest, bytes) in &self.blobs {
            let name = format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
            tar = tar.file(&name, bytes);
        }
        tar.file("index.json", index.as_bytes()).end()
    }
}

fn import(tar: &[u8], tag: Option<&str>, limits: &Limits) -> Result<(Vec<u8>, Counts, ImageConfig), String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(tar).unwrap();
    assert!(outer::is_container(&tar[..tar.len().min(outer::SNIFF)]), "it is told from a root file system");
    let mut image = Cursor::new(Vec::new());
    let (counts, config) = outer::import(&file, tag, limits, &mut image, &|_| {})?;
    Ok((image.into_inner(), counts, config))
}

#[track_caller]
fn made(container: &Container) -> (Vec<u8>, ImageConfig) {
    let (image, _, config) = import(&container.layout().tar(), None, &Limits::default()).unwrap();
    (image, config)
}

#[track_caller]
fn refused(tar: &[u8], why: &str) {
    let said = import(tar, None, &Limits::default()).expect_err(why);
    assert!(said.contains(why), "expected {why:?} in {said:?}");
    assert!(!said.chars().any(char::is_control), "{said:?}");
}

fn base() -> Archive {
    Archive::new()
        .dir("bin/")
        .file("bin/sh", b"#!")
        .dir("etc/")
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n")
        .file("etc/group", b"root:x:0:\nweb:x:102:\nlog:x:4:web\n")
        .dir("d/")
        .file("d/one", b"1")
        .file("d/two", b"2")
}

/// Every path beneath, but those that all images have.
fn listing(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().strip_prefix(root).unwrap().display().to_string();
            let common = ["bin", "dev", "etc", "home", "proc", "run", "sys", "tmp"];
            if common.iter().any(|name| path == *name || path.starts_with(&format!("{name}/"))) {
                continue;
            }
            found.push(path);
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[track_caller]
fn tree(layers: impl IntoIterator<Item = Archive>, expected: &str) {
    let (image, _) = made(&Container::of(layers));
    let Some(dir) = unpacked(&image) else { return };
    assert_eq!(listing(&dir.path().join("root")).join(" "), expected);
}

#[test]
fn whiteouts_take_away_what_lies_below_and_nothing_else() {
    let layer = Archive::new;
    tree([base(), layer().file("d/.wh.one", b"")], "d d/two");
    tree([base(), layer().file(".wh.d", b"")], "");
    // What its own layer brings stays, whichever comes first.
    tree([base(), layer().file(".wh.d", b"").file("d/new", b"")], "d d/new");
    tree([base(), layer().file("d/new", b"").file(".wh.d", b"")], "d d/new");
    tree([base(), layer().file("d/one", b"new").file("d/.wh.one", b"")], "d d/one d/two");
    tree([base(), layer().dir("d/").file("d/.wh..wh..opq", b"").file("d/new", b"")], "d d/new");
    tree([base(), layer().file("d/new", b"").file("d/.wh..wh..opq", b"")], "d d/new");
    // Nothing there, bookkeeping of AUFS, a mark with content, one that a later layer takes back.
    tree([base(), layer().file("d/.wh.none", b"").file("x/.wh.none", b"")], "d d/one d/two x");
    tree([base(), layer().file(".wh..wh.plnk", b"").file(".wh..wh.aufs", b"")], "d d/one d/two");
    tree([base(), layer().file("d/.wh.one", &[7; 3000]).file("last", b"")], "d d/two last");
    tree([base(), layer().file(".wh.d", b""), layer().file("d/three", b"")], "d d/three");
    // A file in a directory's place and the other way round.
    tree([base(), layer().file("d", b"")], "d");
    tree([base(), layer().file("d/one/sub", b"").dir("d/one")], "d d/one d/one/sub d/two");
    // The mark's name is what counts, and a first layer has nothing to take away.
    tree([base().file(".wh.d", b"")], "d d/one d/two");
    tree([base(), layer().symlink("d/.wh.one", "/etc")], "d d/two");
}

#[test]
fn links_mean_what_the_layer_saw() {
    let layer = Archive::new;
    let read = |layers: Vec<Archive>, path: &str, expected: &str| {
        let (image, _) = made(&Container::of(layers));
        let Some(dir) = unpacked(&image) else { return };
        assert_eq!(std::fs::read_to_string(dir.path().join("root").join(path)).unwrap(), expected);
    };
    // A hard link to what only a lower layer has, even where the layer removes its first name.
    read(vec![base(), layer().link("second", "d/one")], "second", "1");
    read(vec![base(), layer().link("second", "/d/one").file("d/.wh.one", b"")], "second", "1");
    read(vec![base(), layer().file(".wh.d", b"").link("second", "d/one")], "second", "1");
    // One name of two is replaced: the other keeps its content.
    read(vec![base().link("d/three", "d/one"), layer().file("d/one", b"new")], "d/three", "1");
    // The last of several entries counts, as tar(1) has it.
    read(vec![base(), layer().file("twice", b"a").file("twice", b"b")], "twice", "b");
    read(vec![base(), layer().file("twice", b"a").link("twice", "twice")], "twice", "a");
    // An absolute name is one from the image's root.
    read(vec![base(), layer().file("/d/abs", b"x")], "d/abs", "x");
    // A directory of a lower layer is reached through its link, as it was when the layer was made.
    read(vec![base().symlink("l", "/d"), layer().file("l/new", b"n")], "d/new", "n");
    read(vec![base().symlink("l", "../../d"), layer().link("l/new", "d/one")], "d/new", "1");
    // Unless the layer says that it is a directory now.
    read(vec![base().symlink("l", "/d"), layer().dir("l/").file("l/new", b"n")], "l/new", "n");
}

#[test]
fn hostile_layers_are_refused() {
    let layer = Archive::new;
    let check = |layer: Archive, why: &str| refused(&Container::of([base(), layer]).layout().tar(), why);
    check(layer().file("../../etc/shadow", b"x"), "`..`");
    check(layer().file("d/../../x", b"x"), "`..`");
    check(layer().link("out", "../../etc/shadow"), "`..`");
    check(layer().link("out", "/etc/shadow"), "did not come before");
    check(layer().link("dir", "d"), "hard link to a directory");
    check(layer().symlink("out", "/").file("out/x", b"x"), "through a symbolic link");
    check(layer().symlink("out", "..").dir("out/"), "twice");
    check(layer().file(".wh...", b""), ".wh.");
    check(layer().file(".wh..", b""), ".wh.");
    check(layer().file(".wh.", b""), ".wh.");
    check(layer().file("d/.wh...", b""), ".wh.");
    check(layer().file(".wh.d/below", b""), ".wh.");
    check(layer().file(".wh.../etc/x", b""), ".wh.");
    check(layer().file("d/one/below", b""), "not a directory");
    check(layer().entry(Header::new("x", b'0', 0).with(|h| h.set_uid(70_000)), b""), "owned by 70000");
    check(layer().entry(Header::new("s", b'S', 0), b""), "sparse");
    // A link of a lower layer that leads nowhere, to a file, to itself.
    for target in ["/nowhere", "/d/one", "l", "../l/l"] {
        let lower = base().symlink("l", target);
        refused(&Container::of([lower, layer().file("l/x", b"")]).layout().tar(), "through a symbolic link");
    }
    // What is mounted on has to be there.
    check(layer().symlink("proc", "/etc"), "/proc has to be a directory");
    check(layer().symlink("home", "/etc"), "/home has to be a directory");
}

#[test]
fn devices_stay_out_and_bits_stay_what_they_are_inside() {
    let su = Header::new("bin/su", b'0', 4).with(|h| h.set_mode(0o4755));
    let layer = Archive::new()
        .entry(Header::new("dev/sda", b'4', 0), b"")
        .entry(Header::new("dev/mem", b'3', 0), b"")
        .entry(su, b"#!su");
    let container = Container::of([base(), layer]);
    let (image, counts, _) = import(&container.layout().tar(), None, &Limits::default()).unwrap();
    assert_eq!(counts.skipped_nodes, 2);
    let Some(dir) = unpacked(&image) else { return };
    assert!(std::fs::read_dir(dir.path().join("root/dev")).unwrap().next().is_none());
}

#[test]
fn limits_count_over_all_layers() {
    let few = Limits { entries: 40, ..Limits::default() };
    let small = Limits { bytes: 1 << 20, ..Limits::default() };
    let refused = |container: &Container, limits: &Limits, why: &str| {
        let said = import(&container.layout().tar(), None, limits).expect_err(why);
        assert!(said.contains(why), "{said}");
    };
    let names = |from: u32| (from..from + 15).fold(Archive::new(), |a, n| a.file(&format!("f{n}"), b""));
    refused(&Container::of([base(), names(0), names(20), names(40)]), &few, "more than 40 entries");
    let marks = (0..50).fold(Archive::new(), |a, n| a.file(&format!(".wh.f{n}"), b""));
    refused(&Container::of([base(), marks]), &few, "more than 40 entries");
    let links = (0..50).fold(Archive::new(), |a, n| a.link(&format!("l{n}"), "d/one"));
    refused(&Container::of([base(), links]), &few, "more than 40 entries");
    let half = |name: &str| Archive::new().file(name, &vec![0; 600 << 10]);
    let bomb = Container::of([base(), half("a"), half("b")]);
    refused(&bomb, &small, "larger than");
    refused(&bomb.packed(gzip), &small, "larger than");
}

#[test]
fn documents_that_lie_are_refused() {
    let container = Container::of([base()]).packed(gzip);
    let honest = container.layout();
    assert!(import(&honest.tar(), None, &Limits::default()).is_ok());
    // Any blob that is not what its name says.
    for index in 0..honest.blobs.len() {
        let mut lying = honest.clone();
        let last = lying.blobs[index].1.len() - 1;
        lying.blobs[index].1[last] ^= 1;
        refused(&lying.tar(), "the manifest says sha256:");
        let mut missing = honest.clone();
        missing.blobs.remove(index);
        refused(&missing.tar(), "the archive has no");
    }
    // Sizes, both ways.
    for (by, why) in [(1, "fewer than"), (-1, "more than")] {
        let mut manifest = container.manifest();
        let size = manifest["layers"][0]["size"].as_i64().unwrap();
        manifest["layers"][0]["size"] = json!(size + by);
        let mut lying = honest.clone();
        lying.index = vec![lying.add("", manifest.to_string().as_bytes())];
        refused(&lying.tar(), why);
    }
    // The configuration speaks of another layer, of more layers, of another machine.
    let other = Container { diff_ids: vec![sha256(b"other")], ..container.clone() };
    refused(&other.layout().tar(), "configuration says");
    let more = Container { diff_ids: vec![sha256(b"other"); 2], ..container.clone() };
    refused(&more.layout().tar(), "1 layers, and its configuration speaks of 2");
    let elsewhere = Container { architecture: "s390x".to_owned(), ..container.clone() };
    refused(&elsewhere.layout().tar(), "made for linux/s390x");

    let manifest = |change: &dyn Fn(&mut Value)| {
        let mut manifest = container.manifest();
        change(&mut manifest);
        let mut layout = honest.clone();
        layout.index = vec![layout.add("", manifest.to_string().as_bytes())];
        layout.tar()
    };
    refused(&manifest(&|m| m["manifests"] = json!([])), "ambiguous");
    refused(&manifest(&|m| m["mediaType"] = json!("application/vnd.oci.image.index.v1+json")), "neither");
    refused(&manifest(&|m| m["schemaVersion"] = json!(1)), "schema version 1");
    refused(&manifest(&|m| m["layers"][0]["size"] = json!(-1)), "not valid");
    refused(&manifest(&|m| m["layers"][0]["digest"] = json!("sha512:00")), "only sha256");
    refused(&manifest(&|m| m["layers"][0]["digest"] = json!("sha256:../../x")), "only sha256");
    refused(
        &manifest(&|m| m["layers"][0]["mediaType"] = json!("application/vnd.cncf.helm.chart")),
        "artifact",
    );
    refused(&manifest(&|m| m["layers"][0]["mediaType"] = json!("x.tar+encrypted")), "encrypted");
    let many = vec![container.manifest()["layers"][0].clone(); 201];
    refused(&manifest(&|m| m["layers"] = json!(many)), "201 layers");
}

#[test]
fn an_index_leads_to_this_machines_image() {
    let mut layout = Layout::default();
    let mut here = layout.add_image(&Container::of([base().file("here", b"")]));
    let mut there = layout.add_image(&Container::of([base().file("there", b"")]));
    here["platform"] = json!({ "os": "linux", "architecture": ARCHITECTURE });
    there["platform"] = json!({ "os": "linux", "architecture": "s390x" });
    let attestation = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 3,
        "digest": sha256(b"no"), "platform": { "os": "unknown", "architecture": "unknown" } });
    let inner = layout.add_index(&[attestation, there.clone(), here]);
    layout.index = vec![inner];
    let (image, ..) = import(&layout.tar(), None, &Limits::default()).unwrap();
    if let Some(dir) = unpacked(&image) {
        assert_eq!(listing(&dir.path().join("root")).join(" "), "d d/one d/two here");
    }
    let only = layout.add_index(&[there]);
    layout.index = vec![only];
    refused(&layout.tar(), "nothing for linux/");

    // Indexes in indexes, deeper than anybody means it. A cycle of true digests cannot be made; a lying one is refused.
    let mut deep = Container::of([base()]).layout();
    for _ in 0..6 {
        let inner = deep.index.clone();
        deep.index = vec![deep.add_index(&inner)];
    }
    refused(&deep.tar(), "4 deep");
    let mut cycle = Layout::default();
    let own = "ab".repeat(32);
    let body = json!({ "schemaVersion": 2, "manifests": [{ "digest": format!("sha256:{own}"), "size": 1 }] });
    let body = body.to_string().into_bytes();
    let size = body.len();
    cycle.blobs.push((format!("sha256:{own}"), body));
    cycle.index = vec![json!({ "digest": format!("sha256:{own}"), "size": size })];
    refused(&cycle.tar(), "the manifest says");
}

#[test]
fn of_several_images_the_tag_says_which() {
    let mut layout = Layout::default();
    for name in ["one", "two"] {
        let mut image = layout.add_image(&Container::of([base().file(name, b"")]));
        image["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        layout.index.push(image);
    }
    refused(&layout.tar(), "several images: one, two");
    let (image, ..) = import(&layout.tar(), Some("two"), &Limits::default()).unwrap();
    if let Some(dir) = unpacked(&image) {
        assert_eq!(listing(&dir.path().join("root")).join(" "), "d d/one d/two two");
    }
    let said = import(&layout.tar(), Some("three"), &Limits::default()).unwrap_err();
    assert!(said.contains("it holds one, two"), "{said}");
}

/// As `docker save` wrote it before version 25, with a layer that stands twice.
#[test]
fn what_docker_save_wrote_is_imported() {
    let container =
        Container::of([base(), Archive::new().file("top", b"t"), Archive::new().file("top", b"t")]);
    let config = container.config();
    let id = sha256(&config).trim_start_matches("sha256:").to_owned();
    let manifest = json!([{ "Config": format!("{id}.json"), "RepoTags": ["own/app:1"],
        "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"] }]);
    let saved = |last: &str| {
        Archive::new()
            .file(&format!("{id}.json"), &config)
            .dir("a/")
            .file("a/layer.tar", &container.layers[0])
            .file("b/layer.tar", &container.layers[1])
            .symlink("c/layer.tar", last)
            .file("manifest.json", manifest.to_string().as_bytes())
            .end()
    };
    let (image, ..) = import(&saved("../b/layer.tar"), Some("own/app:1"), &Limits::default()).unwrap();
    let same = import(&saved("../b/layer.tar"), Some("1"), &Limits::default()).unwrap();
    assert_eq!(image, same.0);
    if let Some(dir) = unpacked(&image) {
        assert_eq!(listing(&dir.path().join("root")).join(" "), "d d/one d/two top");
    }
    // A link out of the archive leads to nothing, one to itself nowhere, one to another layer to a wrong digest.
    refused(&saved("../../../etc/passwd"), "the archive has no");
    refused(&saved("../c/layer.tar"), "lead nowhere");
    refused(&saved("../a/layer.tar"), "configuration says");
}

#[test]
fn what_an_image_says_of_processes_is_kept() {
    let container = Container::of([base()]).with(json!({
        "User": "web:log", "WorkingDir": "/srv/app", "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["true"],
        "Env": ["PATH=/bin", "EMPTY=", "NOTHING", "BASH_FUNC_x%%=() { :; }", "A=b=c"], "Volumes": { "/data": {} },
    }));
    let (image, config) = made(&container);
    assert_eq!(config.entrypoint, ["/bin/sh", "-c"]);
    assert_eq!(config.cmd, ["true"]);
    assert_eq!(config.cwd.as_deref(), Some("/srv/app"));
    let env: Vec<_> = config.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["A=b=c", "EMPTY=", "NOTHING=", "PATH=/bin"]);
    assert_eq!(config.user, Some(ImageUser { uid: 101, gid: 4, name: Some("web".to_owned()) }));
    if let Some(dir) = unpacked(&image) {
        assert!(dir.path().join("root/srv/app").is_dir(), "a working directory is made");
    }

    let user = |text: &str| made(&Container::of([base()]).with(json!({ "User": text }))).1.user;
    let named = |uid, gid, name: &str| Some(ImageUser { uid, gid, name: Some(name.to_owned()) });
    assert_eq!(user(""), None);
    assert_eq!(user("0"), named(0, 0, "root"));
    assert_eq!(user("root"), named(0, 0, "root"));
    assert_eq!(user("web"), named(101, 102, "web"));
    assert_eq!(user("101:7"), named(101, 7, "web"));
    assert_eq!(user("65532"), Some(ImageUser { uid: 65532, gid: 0, name: None }));
    assert_eq!(user("1000"), named(1000, 1000, "agent"));
    for (text, why) in [
        ("nobody-here", "is not in its /etc/passwd"),
        ("web:none", "is not in its /etc/group"),
        ("65535", "ids in an agent"),
        ("4294967295", "ids in an agent"),
        ("\u{1b}[31m", "is not in its"),
    ] {
        refused(&Container::of([base()]).with(json!({ "User": text })).layout().tar(), why);
    }
    let place = |text: &str| Container::of([base()]).with(json!({ "WorkingDir": text })).layout().tar();
    refused(&place("/etc/passwd"), "working directory");
    refused(&place("/a/../../b"), "working directory");
    // `null` is nothing, and an image of one program needs no shell.
    let bare = Container::of([Archive::new().file("hello", b"#!")]);
    let (_, config) =
        made(&bare.with(json!({ "Env": null, "Cmd": null, "User": null, "Entrypoint": ["/hello"] })));
    assert_eq!(config, ImageConfig { entrypoint: vec!["/hello".to_owned()], ..Default::default() });
}

#[test]
fn packed_or_not_the_image_is_the_same() {
    let container = Container::of([base().file("data", &[9; 70_000]), Archive::new().file(".wh.d", b"")]);
    let plain = made(&container).0;
    assert_eq!(made(&container.clone().packed(gzip)).0, plain);
    assert_eq!(made(&container.clone().packed(|layer| zstd::encode_all(layer, 3).unwrap())).0, plain);

    // The whole archive may be packed as well; then it cannot be read where it lies.
    let through = |bytes: &[u8], tag| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive");
        std::fs::write(&path, bytes).unwrap();
        let image = dir.path().join("image");
        let open =
            || File::options().read(true).write(true).create(true).truncate(true).open(&image).unwrap();
        let done = worker::import(
            File::open(path).unwrap(),
            open(),
            tempfile::tempfile().unwrap(),
            &Limits { bytes: 4 << 20, ..Limits::default() },
            tag,
        );
        done.map(|_| std::fs::read(image).unwrap())
    };
    let tar = container.layout().tar();
    assert_eq!(through(&tar, None).unwrap(), plain);
    assert_eq!(through(&gzip(&tar), None).unwrap(), plain);
    let bomb = Container::of([base().file("zeros", &vec![0; 5 << 20])]).layout().tar();
    assert!(through(&gzip(&bomb), None).unwrap_err().contains("larger than"));
    // A root file system is still one, and has no tags.
    let root = super::good().end();
    assert_eq!(through(&gzip(&root), None).unwrap(), super::image(super::good()));
    assert!(through(&root, Some("x")).unwrap_err().contains("no image x"));
}

#[test]
fn long_runs_of_zeros_take_no_room() {
    let mut file = tempfile::tempfile().unwrap();
    let tar = super::good().file("zeros", &vec![0; 32 << 20]).file("after", b"x").end();
    worker::convert(&tar[..], &mut file, &Limits::default()).unwrap();
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata().unwrap();
    assert!(metadata.len() > 32 << 20);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} bytes on disk", metadata.blocks() * 512);
}

/// Bytes of a good image's documents and layers are changed, and digests put right again, so that the changes get
/// past them. Whatever comes out, it is a refusal or an image that `fsck.erofs` can read.
#[test]
fn damaged_images_never_get_further_than_a_refusal() {
    let upper = Archive::new()
        .file("d/.wh.one", b"")
        .file("new/.wh..wh..opq", b"")
        .link("l", "d/two")
        .file("x", b"y");
    let good = [base().symlink("s", "d").end(), upper.end()];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    };
    let limits = Limits { bytes: 1 << 20, entries: 100 };
    let mut accepted = Vec::new();
    for _ in 0..5_000 {
        let mut layers = good.to_vec();
        for _ in 0..=random(3) {
            let layer = &mut layers[random(2)];
            let at = random(layer.len());
            layer[at] = [0, b'0', b'/', b'.', b'5', b'2', random(256) as u8][random(7)];
        }
        for layer in &mut layers {
            for block in layer.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let diff_ids = layers.iter().map(|layer| sha256(layer)).collect();
        let container =
            Container { layers, diff_ids, settings: json!({}), architecture: ARCHITECTURE.to_owned() };
        if let Ok((image, ..)) = import(&container.layout().tar(), None, &limits) {
            accepted.push(image);
        }
    }
    assert!(accepted.len() > 500, "only {} got through: the changes are too coarse", accepted.len());
    for image in accepted.iter().step_by(accepted.len() / 20) {
        unpacked(image);
    }
}

#[test]
fn what_is_installed_is_what_the_last_layer_says() {
    let told = |layers: Vec<Archive>| {
        let (_, counts, _) = import(&Container::of(layers).layout().tar(), None, &Limits::default()).unwrap();
        counts.packages.map(|packages| packages.versions["p0"].clone())
    };
    let with = |version: &str| {
        base()
            .dir("var")
            .dir("var/lib")
            .dir("var/lib/dpkg")
            .file("var/lib/dpkg/status", &super::status(version))
    };
    let layer = Archive::new;
    assert_eq!(told(vec![with("1.0")]).as_deref(), Some("1.0"));
    let newer = layer().file("var/lib/dpkg/status", &super::status("2.0"));
    assert_eq!(told(vec![with("1.0"), newer]).as_deref(), Some("2.0"));
    assert_eq!(told(vec![with("1.0"), layer().file("var/lib/dpkg/.wh.status", b"")]), None);
    assert_eq!(told(vec![with("1.0"), layer().file("d/more", b"x")]).as_deref(), Some("1.0"));
}
