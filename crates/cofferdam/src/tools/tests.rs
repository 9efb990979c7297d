use super::*;

/// A machine with these files, this environment, and programs that say this.
fn machine(
    files: &[(&str, &str)],
    env: &[(&str, &str)],
    ask: fn(&[&str]) -> Option<String>,
) -> (tempfile::TempDir, Machine) {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let root = directory.path().to_owned();
    (directory, Machine { root, home: Some("/home/somebody".into()), env, ask })
}

fn nobody(_: &[&str]) -> Option<String> {
    None
}

/// Hosts and where they come from, as `HOST:PORT FROM`.
fn hosts(found: &Found) -> Vec<String> {
    found.hosts.iter().map(|(host, from)| format!("{host} {from}")).collect()
}

#[test]
fn nothing_but_the_host_is_kept_of_an_address() {
    for (address, expected) in [
        ("https://mirror.example.org/simple", Some("mirror.example.org:443")),
        ("https://user:pass%40word@Mirror.Example.Org.:8443/simple?x#y", Some("mirror.example.org:8443")),
        ("http://mirror.example.org", Some("mirror.example.org:80")),
        ("sparse+https://index.example.org/", Some("index.example.org:443")),
        ("ssh://git@git.example.org/index.git", Some("git.example.org:22")),
        ("mirror+http://mirrors.example.org/list", Some("mirrors.example.org:80")),
        ("https://[2001:db8::1]:8080/x", Some("[2001:db8::1]:8080")),
        ("http://203.0.113.7/x", Some("203.0.113.7:80")),
        ("file:///srv/mirror", None),
        ("cdrom:[Debian]/", None),
        ("/srv/wheels", None),
        ("https://${REGISTRY}/", None),
        ("https://*.example.org/", None),
        ("https://", None),
        ("undefined", None),
    ] {
        assert_eq!(host_of(address).as_deref(), expected, "{address}");
    }
}

#[test]
fn pip_is_read_from_all_its_files() {
    let files = [
        (
            "/etc/pip.conf",
            "[global]\ncert = /etc/ssl/x.pem\nindex-url = https://u:p@mirror.example.org/simple\n",
        ),
        (
            "/home/somebody/.config/pip/pip.conf",
            "# mine\n[install]\nextra_index_url =\n    https://more.example.org:8443/simple\n    https://third.example.org/simple\n\
             find-links = /srv/wheels\nproxy: proxy.example.org:3128\n",
        ),
    ];
    let (_files, machine) =
        machine(&files, &[("PIP_EXTRA_INDEX_URL", "https://env.example.org/simple")], |_| {
            panic!("an index is set")
        });
    let found = pip::read(&machine);
    assert_eq!(
        hosts(&found),
        [
            "mirror.example.org:443 index-url in /etc/pip.conf",
            "more.example.org:8443 extra-index-url in /home/somebody/.config/pip/pip.conf",
            "third.example.org:443 extra-index-url in /home/somebody/.config/pip/pip.conf",
            "env.example.org:443 PIP_EXTRA_INDEX_URL",
        ]
    );
    assert_eq!(found.proxies, BTreeSet::from(["proxy.example.org:3128".to_owned()]));
}

#[test]
fn a_tool_that_is_not_set_up_is_asked() {
    let says = |command: &[&str]| match command[0] {
        "python3" => Some("https://index.example.org/simple\nhttps://files.example.org\n".to_owned()),
        "npm" => Some("https://npm.example.org/\n".to_owned()),
        _ => None,
    };
    let (_files, asked) = machine(&[("/etc/pip.conf", "[global]\ntimeout = 60\n")], &[], says);
    assert_eq!(
        hosts(&pip::read(&asked)),
        ["index.example.org:443 pip's own default", "files.example.org:443 pip's own default"]
    );
    assert_eq!(hosts(&npm::read(&asked)), ["npm.example.org:443 npm config get registry"]);
    let (_files, silent) = machine(&[], &[], nobody);
    for (bundle, found) in gather(&silent) {
        assert_eq!(found, Found::default(), "{bundle}");
        assert!(remedy(bundle).contains("setup --bundles"));
    }
}

#[test]
fn npm_has_registries_of_scopes() {
    let files = [
        ("/etc/npmrc", "cafile=/etc/ssl/x.pem\n; a comment\nregistry=https://npm.example.org/\n"),
        (
            "/home/somebody/.npmrc",
            "@team:registry = \"https://team.example.org:4873/\"\n//team.example.org:4873/:_authToken=secret\n\
             https-proxy=http://u:p@proxy.example.org:3128/\n@other:registry=${OTHER}\n",
        ),
    ];
    let (_files, machine) = machine(&files, &[("npm_config_registry", "https://env.example.org")], nobody);
    let found = npm::read(&machine);
    assert_eq!(
        hosts(&found),
        [
            "npm.example.org:443 registry in /etc/npmrc",
            "team.example.org:4873 @team:registry in /home/somebody/.npmrc",
            "env.example.org:443 npm_config_registry",
        ]
    );
    assert_eq!(found.proxies, BTreeSet::from(["proxy.example.org:3128".to_owned()]));
    assert!(!write::text(&BTreeMap::from([("node", found)])).contains("secret"));
}

#[test]
fn cargo_is_read_from_its_configuration_and_what_it_used() {
    let files = [
        (
            "/home/somebody/.cargo/config.toml",
            "[source.mirror]\nregistry = \"sparse+https://mirror.example.org/index/\"\n[source.crates-io]\nreplace-with = \"mirror\"\n\
             [source.local]\ndirectory = \"vendor\"\n[registries.team]\nindex = \"ssh://git@git.example.org/index.git\"\n\
             [http]\nproxy = \"proxy.example.org:3128\"\n",
        ),
        (
            "/home/somebody/.cargo/registry/index/index.example.org-0123456789abcdef/config.json",
            "{\"dl\": \"https://files.example.org/crates/{crate}\", \"api\": \"https://api.example.org\"}",
        ),
        ("/home/somebody/.cargo/registry/index/git.example.org-0123456789abcdef/.cargo-index-lock", ""),
    ];
    let env = [
        ("CARGO_REGISTRIES_OTHER_INDEX", "sparse+https://other.example.org/"),
        ("RUSTUP_DIST_SERVER", "https://rustup.example.org"),
    ];
    let (_files, machine) = machine(&files, &env, nobody);
    let found = cargo::read(&machine);
    let index = "/home/somebody/.cargo/registry/index";
    assert_eq!(
        hosts(&found),
        [
            "mirror.example.org:443 source.mirror.registry in /home/somebody/.cargo/config.toml",
            "git.example.org:22 registries.team.index in /home/somebody/.cargo/config.toml",
            "other.example.org:443 CARGO_REGISTRIES_OTHER_INDEX",
            "rustup.example.org:443 RUSTUP_DIST_SERVER",
            &format!(
                "git.example.org:443 the index that cargo has in {index}/git.example.org-0123456789abcdef"
            ),
            &format!(
                "index.example.org:443 the index that cargo has in {index}/index.example.org-0123456789abcdef"
            ),
            &format!(
                "files.example.org:443 the index that cargo has in {index}/index.example.org-0123456789abcdef"
            ),
            &format!(
                "api.example.org:443 the index that cargo has in {index}/index.example.org-0123456789abcdef"
            ),
        ]
    );
    assert_eq!(found.proxies.len(), 1);
}

#[test]
fn apt_has_two_forms_of_sources() {
    let files = [
        (
            "/etc/apt/sources.list",
            "# deb http://old.example.org/debian x main\ndeb http://one.example.org/debian bookworm main # mine\n\
             deb [arch=amd64 signed-by=/x.gpg] https://two.example.org:8443/debian bookworm main\n\
             deb cdrom:[Debian GNU/Linux]/ bookworm main\ndeb-src http://one.example.org/debian bookworm main\n",
        ),
        (
            "/etc/apt/sources.list.d/debian.sources",
            "Types: deb deb-src\n# http://old.example.org/debian\nURIs: http://three.example.org/debian\n  https://four.example.org/debian\n\
             Suites: bookworm\n\nTypes: deb\nURIs: http://off.example.org/debian\nEnabled: no\n\n\
             Types: deb\nURIs: mirror+file:/etc/apt/mirrors/debian.list\nSuites: bookworm\n",
        ),
        (
            "/etc/apt/mirrors/debian.list",
            "https://five.example.org/debian\tpriority:1\nhttps://six.example.org/debian\n",
        ),
        ("/etc/apt/sources.list.d/more.list.disabled", "deb http://off.example.org/debian bookworm main\n"),
    ];
    let says = |command: &[&str]| {
        assert_eq!(command, ["apt-config", "dump", "Acquire"]);
        let said = "Acquire \"\";\nAcquire::http::Proxy \"http://proxy.example.org:3142/\";\n\
            Acquire::http::Proxy::one.example.org \"DIRECT\";\nAcquire::Retries \"3\";\n";
        Some(said.to_owned())
    };
    let (_files, machine) = machine(&files, &[], says);
    let found = apt::read(&machine);
    assert_eq!(
        hosts(&found),
        [
            "one.example.org:80 /etc/apt/sources.list",
            "two.example.org:8443 /etc/apt/sources.list",
            "three.example.org:80 /etc/apt/sources.list.d/debian.sources",
            "four.example.org:443 /etc/apt/sources.list.d/debian.sources",
            "five.example.org:443 /etc/apt/mirrors/debian.list",
            "six.example.org:443 /etc/apt/mirrors/debian.list",
        ]
    );
    assert_eq!(found.proxies, BTreeSet::from(["proxy.example.org:3142".to_owned()]));
}

#[test]
fn node_reads_what_is_written() {
    let mut found: BTreeMap<&'static str, Found> =
        model::policy::TOOLS.map(|bundle| (bundle, Found::default())).into();
    let python = found.get_mut("python").unwrap();
    python.add("https://mirror.example.org/simple", "index-url in /etc/a\nb = [\"x\"]");
    python.add("http://[2001:db8::1]/simple", "PIP_INDEX_URL");
    python.proxy("proxy.example.org:3128");
    let text = write::text(&found);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundles.toml");
    std::fs::write(&path, &text).unwrap();
    let read = node::read_bundles(&path).unwrap();
    assert_eq!(read["python"], ["mirror.example.org:443", "[2001:db8::1]:80"]);
    assert_eq!(read.len(), 4);
    assert!(read["rust"].is_empty() && text.contains("# Nothing was found: name the registry"), "{text}");
    assert!(text.contains("# Not in here: the proxy proxy.example.org:3128"), "{text}");
}
