//! A control with a certificate of an authority of the installation's own, and a node and a command line that are told to trust it.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use testkit::World;

#[test]
fn a_node_serves_a_control_with_an_authority_of_its_own() {
    if !testkit::can_run() {
        return;
    }
    // Enrolled by the socket, which also makes the system's users.
    let world = World::start();
    world.cli(&["down"]).ok();
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate").pem();
    let file = |name: &str, text: &str, mode| -> PathBuf {
        let path = world.dir().join("etc").join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("its mode");
        path
    };
    let ca = file("ca.pem", &issuer.pem(), 0o644);
    let certificate = file("certificate.pem", &certificate, 0o644);
    let key = file("key.pem", &key.serialize_pem(), 0o600);
    let owned = Command::new("chown").arg("cofferdam-control").arg(&key).status().expect("chown(1)");
    assert!(owned.success());
    let change = |name: &str, change: &dyn Fn(String) -> String| {
        let path = world.dir().join("etc").join(name);
        let text = fs::read_to_string(&path).expect("a configuration");
        fs::write(&path, change(text)).expect("a configuration");
    };
    change("control.toml", &|text| format!("{text}[serve]\ncertificate = {certificate:?}\nkey = {key:?}\n"));
    let url = format!("https://127.0.0.1:{}", world.control_port);
    change("node.toml", &|text| {
        let others = text.lines().filter(|line| !line.starts_with("control ="));
        let others: Vec<&str> = others.collect();
        format!("control = {url:?}\ncontrol_ca = {ca:?}\n{}\n", others.join("\n"))
    });

    world.up();
    world.create("worker", &[]);
    assert_eq!(world.sh("worker", "echo inside").ok().out, "inside\n");
    let login = ["login", &url, "--name", "tls"];
    let input = world.api_key();
    assert_eq!(world.cli_with(&login, input.as_bytes()).code, 5, "the machine does not know it");
    let ca = ca.to_str().expect("text");
    world.cli_with(&[&login[..], &["--ca", ca]].concat(), input.as_bytes()).ok();
    assert_eq!(world.sh("worker", "echo inside").ok().out, "inside\n");
}
