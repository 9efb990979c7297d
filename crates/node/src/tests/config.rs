use crate::Config;
use crate::egress::is_allowed;
use model::Network;
use model::config::Checked;

fn keys(text: &str) -> Vec<String> {
    match Config::read(text, Default::default()) {
        Ok(_) => Vec::new(),
        Err(error) => {
            let said = error.to_string();
            assert!(error.faults.iter().all(|fault| said.contains(&fault.key)), "{said}");
            error.faults.into_iter().map(|fault| fault.key).collect()
        }
    }
}

#[test]
fn nothing_is_needed() {
    assert_eq!(Config::read("", Default::default()).unwrap(), Config::default());
    assert_eq!(Config::default().validate(), Ok(()));
    let config = Config::read("slots = 3\n[limits]\nmemory = \"2GiB\"", Default::default()).unwrap();
    assert_eq!((config.slots, config.limits.memory.0, config.limits.cpus), (3, 2 << 30, 512.0));
}

#[test]
fn every_fault_is_named_at_once() {
    let text = r#"
        control = "http://127.0.0.1:7700/v1"
        guard = "here"
        slot = 3
        slots = -1
        cgroup = "../system.slice"
        [limits]
        cpus = "many"
        memory = "1 potato"
        discs = 1
    "#;
    let mut named = keys(text);
    named.sort_unstable();
    // What is out of bounds shows when the types are right.
    assert_eq!(named, ["guard", "limits.cpus", "limits.discs", "limits.memory", "slot", "slots"]);
    let text = r#"
        control = "http://127.0.0.1:7700/v1"
        control_ca = "ca.pem"
        data = "relative"
        run = "/run/../etc"
        cgroup = "../system.slice"
        uid_first = 1000
        slots = 0
        [limits]
        cpus = nan
        memory = 1
    "#;
    assert_eq!(
        keys(text),
        [
            "control",
            "control_ca",
            "control_ca",
            "data",
            "run",
            "cgroup",
            "uid_first",
            "slots",
            "limits.cpus",
            "limits.memory"
        ]
    );
}

#[test]
fn ids_do_not_overlap_or_overflow() {
    assert_eq!(keys("gate_uid_first = 1879048200"), ["gate_uid_first"]);
    // Kernels up to 6.1 make no terminals for such ids, and then no agent starts.
    assert_eq!(keys("uid_first = 2147483648\nuid_ranges = 2\nslots = 2"), ["uid_first"]);
    assert_eq!(
        keys("uid_first = 2147400000\nuid_ranges = 2\nslots = 2\ngate_uid_first = 70000"),
        ["uid_ranges"]
    );
    assert_eq!(keys("uid_ranges = 10"), ["slots"]);
}

#[test]
fn a_cgroup_is_a_name_or_leads_to_a_unit() {
    for good in ["cofferdam", "system.slice/cofferdam-agents.service", "a/b/c/d/e/f/g/h"] {
        assert_eq!(keys(&format!("cgroup = \"{good}\"")), [""; 0], "{good}");
    }
    for bad in
        ["", "/", "/a", "a/", "a//b", "..", "a/../b", "a/.hidden", "a/b/c/d/e/f/g/h/i", "a b", "a/b\\n"]
    {
        assert_eq!(keys(&format!("cgroup = \"{bad}\"")), ["cgroup"], "{bad}");
    }
    assert_eq!(keys(&format!("cgroup = \"a/{}\"", "x".repeat(65))), ["cgroup"]);
}

#[test]
fn text_that_is_not_toml() {
    assert_eq!(keys("slots = "), ["node.toml"]);
    let said = Config::read("slots = 1\n\n[", Default::default()).unwrap_err().to_string();
    assert!(said.contains("line 3") && !said.contains('\n'), "{said}");
}

#[test]
fn an_installation_has_defaults_of_its_own() {
    let table = |text: &str| text.parse::<toml::Table>().unwrap();
    let config = Config::read("slots = 1", table("data = '/srv/two'\nslots = 7")).unwrap();
    assert_eq!((config.data.as_path(), config.slots), (std::path::Path::new("/srv/two"), 1));
}

#[test]
fn networks_are_read_strictly() {
    let good = "[egress]\nopen = [\"10.1.0.0/16\", \"192.168.1.7\", \"fd00:1::/32\", \"::1\", \"0.0.0.0/0\", \"::/0\"]";
    assert_eq!(keys(good), [""; 0]);
    assert_eq!(keys("[egress]\nresolver = \"[2606:4700:4700::1111]:53\""), [""; 0]);
    for (bad, says) in [
        ("10.1.2.0/16", "10.1.0.0/16"),
        ("fd00::1/64", "fd00::/64"),
        ("10.0.0.0/33", "0 to 32"),
        ("10.0.0.0/+8", "0 to 32"),
        ("10.0.0.0/08", "0 to 32"),
        ("::/129", "0 to 128"),
        ("10.0.0.0/", "0 to 32"),
        ("example.com", "no address"),
        ("10.0.0", "no address"),
        ("", "no address"),
    ] {
        let text = format!("[egress]\nopen = [\"10.0.0.0/8\", \"{bad}\"]");
        assert_eq!(keys(&text), ["egress.open"], "{bad}");
        let said = Config::read(&text, Default::default()).unwrap_err().to_string();
        assert!(said.contains(says), "{bad}: {said}");
    }
    for good in ["tls://1.1.1.1#one.one.one.one", "https://[2606:4700::1111]/dns-query", "9.9.9.9:5353"] {
        assert_eq!(keys(&format!("[egress]\nresolver = \"{good}\"")), [""; 0], "{good}");
    }
    for bad in
        ["1.1.1.1", "1.1.1.1:0", "0.0.0.0:53", "one.one.one.one:53", "tls://one.one.one.one", "https://"]
    {
        assert_eq!(keys(&format!("[egress]\nresolver = \"{bad}\"")), ["egress.resolver"], "{bad}");
    }
}

#[test]
fn what_is_not_public_is_connected_to_only_if_it_is_open() {
    let check = |open: &[&str], address: &str, expected: bool| {
        let open: Vec<Network> = open.iter().map(|network| network.parse().unwrap()).collect();
        assert_eq!(is_allowed(address.parse().unwrap(), &open), expected, "{address} with {open:?}");
    };
    let wide = ["0.0.0.0/0", "::/0"];
    check(&[], "1.1.1.1", true);
    check(&[], "2606:4700::1111", true);
    for private in ["10.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "fd00::1", "fe80::1"] {
        check(&[], private, false);
        check(&["10.0.0.0/30", "fd00::/127"], private, matches!(private, "10.0.0.1" | "fd00::1"));
        check(&wide, private, true);
    }
    // The machine itself is named, or it is not meant.
    for own in ["127.0.0.1", "127.1.2.3", "::1"] {
        check(&wide, own, false);
        check(&["126.0.0.0/7", "::/127"], own, false);
        check(&["127.0.0.0/8", "::1"], own, true);
    }
    for disguised in ["0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:1.1.1.1", "::ffff:10.0.0.1"] {
        check(&["0.0.0.0/0", "::/0", "127.0.0.0/8", "::1"], disguised, false);
    }
}
