//! The authority under which the agent's gate shows itself as the servers whose requests it looks at.
//!
//! The agent trusts it in three ways: by files in memory, by the variables that name these to common programs, and, where
//! the system is the agent's own, in the system's bundle. What is there by then comes from an image or from the agent:
//! nothing of it is taken over but certificates, and that it cannot be changed is no reason not to start.

use super::secrets::make_directory;
use super::sys;
use crate::layout::PLATFORM;
use crate::spec::Identity;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Where systems have all certificates that they trust, in one file: Debian and most others, Fedora, SUSE, Alpine.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where `update-ca-certificates` finds more of them.
const LOCAL: &str = "/usr/local/share/ca-certificates";
/// The longest bundle that is read. They have some 250 KiB.
const MAX_BUNDLE: u64 = 4 << 20;
/// Stands before the authority in the system's bundle, so that the next start finds it there.
const MARK: &str = "# cofferdam";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Variables that name all certificates to trust.
const WHOLE: [&str; 11] = [
    // OpenSSL, and with it Python, Ruby, PHP and Perl; Go; whatever uses rustls' native certificates, such as uv.
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HEX_CACERTS_PATH",
    "NIX_SSL_CERT_FILE",
];
/// Variables that name certificates besides those that the program has itself. npm, yarn and pnpm run in Node.
const MORE: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Has the agent trust it, and with it what its system trusts, or else these `roots`. Variables that are set already stay as
/// they are.
pub fn establish(authority: &str, roots: &str, env: &mut BTreeMap<String, String>) -> io::Result<()> {
    let authority = authority.trim_end();
    let own = BUNDLES.iter().find_map(|path| Some(certificates(&read(path).ok()?)));
    let mut bundle = own.filter(|own| !own.is_empty()).unwrap_or_else(|| certificates(roots));
    bundle.push_str(&format!("{MARK}\n{authority}\n"));

    make_directory(PLATFORM, 0o755, Identity::ROOT)?;
    let (own, all) = (format!("{PLATFORM}/ca.pem"), format!("{PLATFORM}/ca-bundle.pem"));
    write(&own, &format!("{authority}\n"))?;
    write(&all, &bundle)?;
    for (names, path) in [(&WHOLE[..], &all), (&MORE[..], &own)] {
        for name in names {
            env.entry((*name).to_owned()).or_insert_with(|| path.clone());
        }
    }
    if !sys::is_os_user() {
        for path in BUNDLES {
            let _ = fs::canonicalize(path).and_then(|path| exchange(&path, &bundle));
        }
        if Path::new(LOCAL).is_dir() {
            let _ = exchange(&Path::new(LOCAL).join("cofferdam.crt"), &format!("{authority}\n"));
        }
    }
    Ok(())
}

/// A regular file's text, without waiting for anybody who may have put something else there.
fn read(path: &str) -> io::Result<String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BUNDLE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BUNDLE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The certificates in a bundle, without the one that an earlier start put there. Whatever else a file holds, perhaps because
/// it is another, stays where it is.
fn certificates(text: &str) -> String {
    let is_base64 =
        |line: &str| line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
    let mut found = String::new();
    let mut block: Option<Vec<&str>> = None;
    let mut is_ours = false;
    for line in text.lines().map(str::trim_end) {
        match (&mut block, line) {
            (_, BEGIN) => block = Some(vec![BEGIN]),
            (Some(lines), END) => {
                if !is_ours {
                    lines.push(END);
                    lines.iter().for_each(|line| {
                        found.push_str(line);
                        found.push('\n');
                    });
                }
                (block, is_ours) = (None, false);
            }
            (Some(lines), line) if is_base64(line) => lines.push(line),
            (Some(_), _) => block = None,
            (None, line) => is_ours = line == MARK,
        }
    }
    found
}

/// A new file in memory.
fn write(path: &str, text: &str) -> io::Result<()> {
    create(Path::new(path))?.write_all(text.as_bytes())
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)
}

/// Puts a new file in the place of one in one step, so that the old one stands when there is no room.
fn exchange(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = OsString::from(path);
    beside.push(".cofferdam");
    let beside = Path::new(&beside);
    let _ = fs::remove_file(beside);
    create(beside)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(beside, path))
        .inspect_err(|_| drop(fs::remove_file(beside)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(body: &str) -> String {
        format!("{BEGIN}\n{body}\n{END}\n")
    }

    #[test]
    fn nothing_but_certificates_is_taken_over() {
        let check = |text: &str, expected: &[&str]| {
            let expected: String = expected.iter().map(|body| block(body)).collect();
            assert_eq!(certificates(text), expected, "{text}");
        };
        check("", &[]);
        check(&format!("# A\n{}\n# B\n{}", block("QQ=="), block("Qg==\nQw==")), &["QQ==", "Qg==\nQw=="]);
        // A file of another kind that a link leads to.
        check("root:x:0:0\n7f00-7fff r-xp /init\n", &[]);
        check(&block("root:x:0:0"), &[]);
        check(&format!("{BEGIN}\nQQ==\n{}", block("Qg==")), &["Qg=="]);
        check(&format!("{END}\n{BEGIN}\nQQ=="), &[]);
        // What an earlier start added.
        check(&format!("{}{MARK}\n{}", block("QQ=="), block("Qg==")), &["QQ=="]);
        check(&format!("{MARK}\n{}{}", block("QQ=="), block("Qg==")), &["Qg=="]);
    }

    #[test]
    fn a_file_is_exchanged_or_left() {
        let dir = std::env::temp_dir().join(format!("cofferdam-jail-trust-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("bundle");
        fs::write(&path, "old").unwrap();
        exchange(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        // A directory in its place stays, and nothing is left beside it.
        let directory = dir.join("directory");
        fs::create_dir(&directory).unwrap();
        assert!(exchange(&directory, "new").is_err());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        // Nobody waits for whoever writes to a pipe.
        assert!(read("/dev/zero").is_err() && read(dir.to_str().unwrap()).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
