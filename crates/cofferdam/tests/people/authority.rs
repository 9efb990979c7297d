//! A control whose certificate comes from an authority that no machine knows by itself.

use crate::installation::Installation;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A control with a certificate, the file of who issued it, and a file of somebody else.
fn start() -> (Installation, PathBuf, PathBuf) {
    let (issuer, directory) = (authority(), tempfile::tempdir().unwrap());
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = file("certificate.pem", &params.signed_by(&key, &issuer).unwrap().pem());
    let key = file("key.pem", &key.serialize_pem());
    let (ca, other) = (file("ca.pem", &issuer.pem()), file("other.pem", &authority().pem()));
    let serve = format!("[serve]\ncertificate = {certificate:?}\nkey = {key:?}");
    (Installation::start_with(directory, &serve), ca, other)
}

fn chain(error: &dyn Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(cause) => format!("{error}: {}", chain(cause)),
    }
}

#[test]
fn the_command_line_trusts_whom_it_is_told_to() {
    let (installation, ca, other) = start();
    let (url, key) = (&installation.url, &installation.key);
    let desk = installation.desk("home");
    let login = |more: &[&str]| desk.run_with(&[&["login", url], more].concat(), key);
    let file = |path: &Path| path.to_str().unwrap().to_owned();
    login(&[]).refused(5, "ertificate");
    login(&["--ca", &file(&other)]).refused(5, "ertificate");
    login(&["--ca", "/nonexistent.pem"]).refused(2, "/nonexistent.pem");
    login(&["--ca", &file(&installation.path().join("key.pem"))]).refused(2, "no certificate");
    assert!(!desk.kept().exists());

    login(&["--ca", &file(&ca)]).ok();
    // It is kept with the key, and the address has a name: the file's, from wherever it is used.
    desk.run(&["ls"]).ok();
    let command = |ca: Option<&Path>| {
        let mut command = desk.command(&["ls"]);
        command.env("COFFERDAM_URL", url).env("COFFERDAM_API_KEY", key);
        ca.into_iter().for_each(|ca| _ = command.env("COFFERDAM_CA", ca));
        command.output().unwrap().status.code()
    };
    assert_eq!((command(None), command(Some(&other)), command(Some(&ca))), (Some(5), Some(5), Some(0)));
    std::fs::remove_file(&ca).unwrap();
    desk.run(&["ls"]).refused(2, "ca.pem");
}

#[tokio::test]
async fn a_node_trusts_whom_it_is_told_to() {
    let (installation, ca, other) = start();
    let data = installation.path().join("node");
    std::fs::create_dir_all(data.join("node")).unwrap();
    // It takes itself for enrolled, and control does not: what that is told by has been spoken to.
    let standing = serde_json::json!({
        "node": model::NodeId::new(), "installation": "ins_1", "database_epoch": 1, "keys": [],
    });
    std::fs::write(data.join("node/enrolled.json"), standing.to_string()).unwrap();
    let asked = async |control_ca: Option<&Path>| {
        let config = node::Config {
            control: installation.url.clone(),
            control_ca: control_ca.map(Path::to_owned),
            data: data.clone(),
            ..node::Config::default()
        };
        chain(&node::images_in_use(&config).await.unwrap_err())
    };
    let said = asked(Some(&ca)).await;
    assert!(said.contains("control answered 401"), "{said}");
    for ca in [None, Some(other.as_path())] {
        let said = asked(ca).await;
        assert!(said.contains("does not answer") && said.contains("ertificate"), "{said}");
    }
    let said = asked(Some(Path::new("/nonexistent.pem"))).await;
    assert!(said.contains("/nonexistent.pem") && said.contains("control_ca"), "{said}");
    let said = asked(Some(&installation.path().join("key.pem"))).await;
    assert!(said.contains("no certificate") && said.contains("control_ca"), "{said}");
}
