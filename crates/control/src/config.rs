//! What `control.toml` may say. Every key has a default, and unknown keys are refused.

use crate::database::Database;
use crate::limits;
use crate::peer::ForwardedBy;
use model::config::{Checked, Fault};
use model::mode::Mode;
use model::quota::Quota;
use model::{ByteSize, Name, Network, Span};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, PathBuf};

/// The configuration of the control process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API answers.
    pub listen: SocketAddr,
    /// Holds the database, the signing key, and by default the keys that wrap those of secrets; made with mode 0700.
    pub data: PathBuf,
    /// Host names, with their port where it is not the default one, that requests may be addressed to besides
    /// loopback's.
    pub hosts: Vec<String>,
    /// `indie`: one owner's own agents. `managed`: agents of several accounts, none of them below a container, and
    /// unrestricted ones on nodes of their own only.
    pub mode: Mode,
    /// The image of agents that are created without one.
    pub image: Name,
    /// What is kept of what leaves agents.
    pub egress: Egress,
    /// Where the database is.
    pub database: Database,
    /// Where the keys are that wrap the keys of secrets.
    pub secrets: Secrets,
    /// How people become known.
    pub people: People,
    /// What a password costs whoever guesses at it.
    pub passwords: Passwords,
    /// What all agents of an account may have together, of accounts that are made from now on; unlimited where it says nothing.
    pub quota: Quota,
    /// How the API is served to others than this machine.
    pub serve: Serve,
    /// How often sensitive things may be asked for.
    pub limits: limits::Config,
}

/// The table `[people]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct People {
    /// Whose invitations make somebody known who was not.
    pub invited: Invited,
}

/// Whose invitations make somebody known: whoever takes one without a login has its address from then on, and nobody asks the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invited {
    /// The operator's, to the operator's own account. Everybody else invites people who are known.
    #[default]
    Operator,
    /// Everybody's, where accounts trust each other: each of their admins can take any address that is not known yet.
    Anyone,
}

/// The table `[passwords]`: the cost of Argon2id, the second choice of RFC 9106 with one lane unless told. Passwords that were hashed with
/// another cost are hashed anew when their people log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Passwords {
    /// Of one check.
    pub memory: ByteSize,
    /// Over that memory.
    pub passes: u32,
    /// Checks at a time; others wait.
    pub at_once: usize,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { memory: ByteSize(64 << 20), passes: 3, at_once: 2 }
    }
}

/// The table `[serve]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Serve {
    /// Proxies in front of control, each by its address or the network that it is in: what they say of whom they speak for is believed.
    pub proxies: Vec<Network>,
    /// Which header they say it in.
    pub forwarded: ForwardedBy,
    /// The certificate to show, with those that it was issued by behind it, in PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, in PEM.
    pub key: Option<PathBuf>,
    /// Who issues the certificate, in place of the two.
    pub acme: Option<Acme>,
}

/// The table `[serve.acme]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// The names that it is for. Port 443 there leads to `listen`.
    pub names: Vec<String>,
    /// Whether its owner agrees to the authority's terms of service.
    #[serde(default)]
    pub agree: bool,
    /// The mail address of who is told when something is wrong.
    #[serde(default)]
    pub contact: Option<String>,
    /// Where the authority is asked.
    #[serde(default = "lets_encrypt")]
    pub directory: String,
    /// Who vouches for the authority's own server, in PEM; the machine's roots without it.
    #[serde(default)]
    pub roots: Option<PathBuf>,
}

fn lets_encrypt() -> String {
    instant_acme::LetsEncrypt::Production.url().to_owned()
}

/// The table `[secrets]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Secrets {
    /// Who keeps them.
    pub provider: Provider,
    /// The file, for the provider `file`; `secrets.key` beside the database without one.
    pub file: Option<PathBuf>,
    /// The credential, for the provider `credential`.
    pub credential: String,
}

/// Who keeps the keys that wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// Control, in a file that is made at its first start and that its user alone may read.
    #[default]
    File,
    /// systemd, which hands them over as a credential: see systemd.exec(5), `LoadCredentialEncrypted=`.
    Credential,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { provider: Provider::File, file: None, credential: "cofferdam-secrets".to_owned() }
    }
}

/// The table `[egress]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// How long records of connections are kept. Of one agent there are 20,000 at most in any case.
    pub keep: Span,
}

impl Default for Egress {
    fn default() -> Self {
        Self { keep: Span(30 * 86_400) }
    }
}

/// Ten years; see `validate`.
const MAX_KEEP: u64 = 3650 * 86_400;

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7700)),
            data: PathBuf::from("/var/lib/cofferdam/control"),
            hosts: Vec::new(),
            mode: Mode::Indie,
            image: "debian".parse().expect("a name"),
            egress: Egress::default(),
            database: Database::default(),
            secrets: Secrets::default(),
            people: People::default(),
            passwords: Passwords::default(),
            quota: Quota::default(),
            serve: Serve::default(),
            limits: limits::Config::default(),
        }
    }
}

impl Checked for Config {
    const FILE: &'static str = "control.toml";
    const TABLES: &'static [&'static str] =
        &["database", "egress", "secrets", "people", "passwords", "quota", "serve", "limits"];

    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, key: &str, detail: &str| {
            if !holds {
                faults.push(Fault { key: key.to_owned(), detail: detail.to_owned() });
            }
        };
        let plain = |path: &PathBuf| {
            path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
        };
        check(plain(&self.data), "data", "must be an absolute path without `..`");
        let bare = |host: &String| !host.is_empty() && !host.contains(['/', '@', ' ']);
        check(self.hosts.iter().all(bare), "hosts", "must be host names such as a.example or a.example:8443");
        let bounded = (60..=MAX_KEEP).contains(&self.egress.keep.0);
        check(bounded, "egress.keep", "must be between 1m and 3650d");
        let Serve { proxies, certificate, key, acme, .. } = &self.serve;
        check(certificate.iter().all(plain), "serve.certificate", "must be an absolute path without `..`");
        check(key.iter().all(plain), "serve.key", "must be an absolute path without `..`");
        check(
            certificate.is_some() == key.is_some(),
            "serve.key",
            "is there with serve.certificate, or not at all",
        );
        if let Some(acme) = acme {
            check(certificate.is_none(), "serve.acme", "is there in place of serve.certificate");
            let named = !acme.names.is_empty() && acme.names.iter().all(|name| is_public_name(name));
            check(named, "serve.acme.names", "must be names such as cofferdam.example.com");
            check(
                acme.agree,
                "serve.acme.agree",
                "must be true: read the authority's terms of service first",
            );
            let mail = acme
                .contact
                .iter()
                .all(|address| address.contains('@') && !address.contains([' ', ',', ':']));
            check(mail, "serve.acme.contact", "must be a mail address");
            check(acme.directory.starts_with("https://"), "serve.acme.directory", "must be an https URL");
            check(acme.roots.iter().all(plain), "serve.acme.roots", "must be an absolute path without `..`");
        }
        let guarded = certificate.is_some() || acme.is_some() || !proxies.is_empty();
        let detail = "reaches beyond this machine: that takes serve.certificate and serve.key, serve.acme, or the addresses of \
                      proxies that end TLS in front of control, in serve.proxies";
        check(self.listen.ip().is_loopback() || guarded, "listen", detail);
        let Secrets { provider, file, credential } = &self.secrets;
        check(file.iter().all(plain), "secrets.file", "must be an absolute path without `..`");
        let ours = file.is_none() || *provider == Provider::File;
        check(ours, "secrets.file", "means nothing with the provider `credential`");
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let named = (1..=128).contains(&credential.len())
            && credential.bytes().all(usual)
            && !credential.starts_with('.');
        check(named, "secrets.credential", "must be the name of a credential, without a dot in front");
        let Passwords { memory, passes, at_once } = &self.passwords;
        // OWASP's least is 19 MiB in two passes.
        check((19 << 20..=4 << 30).contains(&memory.0), "passwords.memory", "must be between 19MiB and 4GiB");
        check((2..=64).contains(passes), "passwords.passes", "must be between 2 and 64");
        check((1..=64).contains(at_once), "passwords.at_once", "must be between 1 and 64");
        check(self.quota.fault().is_none(), "quota.cpus", "must be a number of cores, 0 or more");
        let database = self.database.faults().into_iter();
        faults.extend(database.map(|(key, detail)| Fault { key: key.to_owned(), detail }));
        faults.extend(self.limits.faults().into_iter().map(|(key, detail)| Fault { key, detail }));
        faults
    }
}

/// A name that an authority may issue for: no wildcard, which takes a proof that is not spoken here, and no address.
fn is_public_name(name: &str) -> bool {
    let label = |label: &str| {
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(usual)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.contains('.')
        && name.split('.').all(label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl Config {
    pub(crate) fn database(&self) -> PathBuf {
        self.data.join("cofferdam.db")
    }

    /// The names that requests may be for.
    pub(crate) fn all_hosts(&self) -> Vec<String> {
        let issued = self.serve.acme.iter().flat_map(|acme| &acme.names);
        self.hosts.iter().chain(issued).cloned().collect()
    }

    pub(crate) fn signing_key(&self) -> PathBuf {
        self.data.join("signing.pem")
    }

    pub(crate) fn ledger_key(&self) -> PathBuf {
        self.data.join("ledger.pem")
    }

    pub(crate) fn secrets_key(&self) -> PathBuf {
        self.secrets.file.clone().unwrap_or_else(|| self.data.join("secrets.key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_named_at_once() {
        let said = |text| Config::read(text, Default::default()).unwrap_err().to_string();
        let types = said(
            "listen = 7700\ndata = 3\nhost = []\n[egress]\nkeep = []\nkept = 1\n[people]\ninvited = \"all\"\n[secrets]\nprovider = \"vault\"\nkey = 1",
        );
        let bounds = said(
            "data = \"here\"\nhosts = [\"http://a.example\"]\n[egress]\nkeep = 0\n\
             [secrets]\nprovider = \"credential\"\nfile = \"keys\"\ncredential = \"../x\"\n\
             [passwords]\nmemory = \"1MiB\"\npasses = 1\nat_once = 0\n[quota]\ncpus = -1.0",
        );
        let beyond = said("listen = \"0.0.0.0:7700\"\n[serve]\nkey = \"/etc/key.pem\"");
        let acme = said(
            "[serve]\ncertificate = \"/c.pem\"\nkey = \"/k.pem\"\n[serve.acme]\nnames = [\"*.example.com\"]\ncontact = \"me\"\ndirectory = \"http://a\"",
        );
        let limits = said(
            "[limits]\nredis = \"redis://:hidden@10.0.0.5\"\nredis_password_file = \"here\"\n\
             [limits.rules.login]\nseconds = 0\naddress = 0\n[limits.rules.reset]\naccount = 0",
        );
        assert!(!limits.contains("hidden"), "{limits}");
        let kinds =
            said("[limits]\nredis_password_file = \"/etc/redis\"\n[limits.rules.logins]\nseconds = 1");
        let serve = said(
            "[serve]\nproxies = [\"10.0.0.1/8\"]\nforwarded = \"via\"\ncertificate = [\"x\"]\ntls = true",
        );
        for (said, keys) in [
            (
                types,
                &[
                    "listen: ",
                    "data: ",
                    "host: ",
                    "egress.keep: ",
                    "egress.kept: ",
                    "people.invited: ",
                    "secrets.provider: ",
                    "secrets.key: ",
                ][..],
            ),
            (
                bounds,
                &[
                    "data: ",
                    "hosts: ",
                    "egress.keep: ",
                    "secrets.file: ",
                    "secrets.credential: ",
                    "passwords.memory: ",
                    "passwords.passes: ",
                    "passwords.at_once: ",
                    "quota.cpus: ",
                ],
            ),
            (beyond, &["listen: ", "serve.key: "]),
            (
                acme,
                &[
                    "serve.acme: ",
                    "serve.acme.names: ",
                    "serve.acme.agree: ",
                    "serve.acme.contact: ",
                    "serve.acme.directory: ",
                ],
            ),
            (
                limits,
                &[
                    "limits.redis: ",
                    "limits.redis_password_file: ",
                    "limits.rules.login.seconds: ",
                    "limits.rules.login.address: ",
                    "limits.rules.reset.account: ",
                ],
            ),
            (kinds, &["limits"]),
            (serve, &["serve.proxies: ", "serve.forwarded: ", "serve.certificate: ", "serve.tls: "]),
        ] {
            assert!(keys.iter().all(|key| said.contains(key)) && !said.contains('\n'), "{said}");
        }
        assert_eq!(Config::read("", Default::default()), Ok(Config::default()));
        for good in [
            "listen = \"[::]:443\"\n[serve]\ncertificate = \"/etc/tls.pem\"\nkey = \"/etc/tls.key\"",
            "listen = \"10.0.0.2:7700\"\n[serve]\nproxies = [\"10.0.0.1\", \"fd00::/8\"]\nforwarded = \"forwarded\"",
            "listen = \"127.0.0.2:7700\"",
            "[limits]\nredis = \"unix:///run/redis/redis.sock\"\n[limits.rules.second_factor]\naccount = 5",
            "[limits]\nredis = \"redis://10.0.0.5:6379/0\"\nredis_password_file = \"/etc/cofferdam/redis\"",
        ] {
            Config::read(good, Default::default()).unwrap();
        }
    }
}
