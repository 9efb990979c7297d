//! `secret …`: values that agents use and nobody reads back.

use crate::cli::Global;
use crate::failure::{fail, fail_with};
use crate::output::{self, Format};
use crate::{clean, context, resolve, terminal};
use clap::Subcommand;
use model::secret::{CreateSecret, MAX_VALUE, RotateSecret, Secret, SecretValue, SetHosts};
use model::{Code, Name};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

/// What `secret` has.
#[derive(Subcommand)]
pub enum Command {
    Set(Set),
    /// List secrets, without their values
    Ls {
        /// Names only
        #[arg(short = 'q', long)]
        quiet: bool,
    },
    /// Show what is known of a secret; its value is not
    Show {
        /// Secret, by name or id
        #[arg(value_parser = resolve::reference)]
        secret: String,
    },
    Rotate(Rotate),
    /// Say which hosts a secret may be put into requests to, in place of those before
    Hosts {
        /// Secret, by name or id
        #[arg(value_parser = resolve::reference)]
        secret: String,
        /// A name, or *.name for all below it
        #[arg(required_unless_present = "any", value_name = "HOST")]
        hosts: Vec<String>,
        /// Every host that a policy names
        #[arg(long, conflicts_with = "hosts")]
        any: bool,
    },
    /// Delete secrets that no agent has
    Rm {
        /// Secrets, by name or id
        #[arg(required = true, value_parser = resolve::reference)]
        secrets: Vec<String>,
    },
    Rekey(Rekey),
}

/// Where a value comes from: never from the command line, where every process of the machine could read it.
#[derive(clap::Args)]
struct Source {
    /// Read the value from this file, without a line break at its end; - is stdin
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
}

/// Keep a value under a name
///
/// The value is asked for without echo, or read from stdin or a file: never from the command line, where every process of the machine
/// could read it. A line break at its end is left out. It never comes back: `rotate` gives the secret another one.
#[derive(clap::Args)]
#[command(after_long_help = "\
A secret with hosts is put into requests to these hosts alone, as policies say (`[[egress.inject]]`); no agent has its value. One without
is for every host that a policy names, and can be given to an agent itself: `create --secret`, `--secret-file`.

Examples:
  cofferdam secret set anthropic --host api.anthropic.com
  pass show deploy-key | cofferdam secret set deploy-key
  cofferdam secret set tls-key --from-file key.pem")]
pub struct Set {
    /// Its name
    name: Name,
    /// Host that it may go to, or *.name for all below one; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    #[command(flatten)]
    source: Source,
}

/// Give a secret another value
///
/// Requests have it at once. Agents that are given the secret itself have it from their next start on.
#[derive(clap::Args)]
pub struct Rotate {
    /// Secret, by name or id
    #[arg(value_parser = resolve::reference)]
    secret: String,
    #[command(flatten)]
    source: Source,
}

/// Encrypt the account's secrets anew, under another key
///
/// Everything goes on meanwhile. Should it be interrupted, control goes on with it by itself.
#[derive(clap::Args)]
pub struct Rekey {
    /// Change the key that wraps the keys of all accounts instead; for operators
    #[arg(long)]
    installation: bool,
}

impl Source {
    fn read(self, name: &str) -> anyhow::Result<SecretValue> {
        let value = match self.from_file {
            None if std::io::stdin().is_terminal() => {
                SecretValue::new(terminal::read_secret(&format!("Value of {name}: "))?)
            }
            None => text_of(std::io::stdin().lock(), "stdin")?,
            Some(path) if path.as_os_str() == "-" => text_of(std::io::stdin().lock(), "stdin")?,
            Some(path) => {
                let shown = clean::path(&path);
                let file = File::open(&path).map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => {
                        fail(Code::NotFound, format!("There is no file {shown}."))
                    }
                    _ => anyhow::Error::new(error).context(format!("cannot read {shown}")),
                })?;
                text_of(file, &shown)?
            }
        };
        match value.fault() {
            None => Ok(value),
            Some((message, remedy)) => {
                Err(fail_with(Code::Validation, format!("The value {message}."), remedy))
            }
        }
    }
}

/// All of it, without a line break at its end.
fn text_of(mut source: impl Read, name: &str) -> anyhow::Result<SecretValue> {
    // With room for all of it from the start: a buffer that grows leaves copies behind. One byte more tells one that is too long.
    let most = MAX_VALUE + "\r\n".len() + 1;
    let mut text = String::with_capacity(most);
    let read = Read::by_ref(&mut source).take(most as u64).read_to_string(&mut text);
    if let Some(line) = text.strip_suffix('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        text.truncate(line.len());
    }
    // Taken over before anything can fail, so that it is overwritten.
    let value = SecretValue::new(text);
    match read {
        Ok(_) => Ok(value),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            let detail = format!("{name} is not a text in UTF-8.");
            Err(fail_with(Code::Validation, detail, "encode it, such as in base64"))
        }
        Err(error) => Err(anyhow::Error::new(error).context(format!("cannot read {name}"))),
    }
}

/// The hosts in one line.
fn hosts(secret: &Secret) -> String {
    if secret.hosts.is_empty() { "any".to_owned() } else { secret.hosts.join(", ") }
}

fn print(secret: &Secret, global: &Global) -> anyhow::Result<()> {
    match global.output {
        Format::Json => output::json(secret),
        Format::Table => output::fields(&[
            ("name", secret.name.to_string()),
            ("id", secret.id.to_string()),
            ("value", secret.hint.clone()),
            ("hosts", hosts(secret)),
            ("version", secret.version.to_string()),
            ("created", output::time(secret.created_at)),
            ("rotated", output::time(secret.rotated_at)),
        ]),
    }
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        match self {
            Self::Set(Set { name, hosts, source }) => {
                let value = source.read(name.as_str())?;
                print(&control.create_secret(&CreateSecret { name, value, hosts }).await?, global)?;
            }
            Self::Ls { quiet } => list(&control.secrets().await?, quiet, global)?,
            Self::Show { secret } => print(&control.secret(&secret).await?, global)?,
            Self::Rotate(Rotate { secret, source }) => {
                let value = source.read(&secret)?;
                print(&control.rotate_secret(&secret, &RotateSecret { value }).await?, global)?;
            }
            Self::Hosts { secret, hosts, any: _ } => {
                print(&control.set_secret_hosts(&secret, &SetHosts { hosts }).await?, global)?;
            }
            Self::Rm { secrets } => {
                for secret in secrets {
                    control.remove_secret(&secret).await?;
                    if global.output == Format::Table {
                        output::line(format_args!("{secret} is deleted"))?;
                    }
                }
            }
            Self::Rekey(Rekey { installation }) => {
                let what = match installation {
                    true => control
                        .rotate_wrapping_key()
                        .await
                        .map(|()| "the keys of all accounts are wrapped by a new key")?,
                    false => control
                        .rotate_data_key()
                        .await
                        .map(|()| "the account's secrets are under a new key")?,
                };
                if global.output == Format::Table {
                    output::line(what)?;
                }
            }
        }
        Ok(0)
    }
}

fn list(secrets: &[Secret], quiet: bool, global: &Global) -> anyhow::Result<()> {
    let names = || secrets.iter().map(|secret| &secret.name);
    match global.output {
        Format::Json if quiet => output::json(&names().collect::<Vec<_>>()),
        Format::Json => output::json(&secrets),
        Format::Table if quiet => names().try_for_each(output::line),
        Format::Table => {
            let rows = secrets.iter().map(|secret| {
                let age = output::age(secret.rotated_at);
                let name = secret.name.to_string();
                [name, secret.hint.clone(), secret.version.to_string(), age, hosts(secret)]
            });
            output::table(["NAME", "VALUE", "VERSION", "AGE", "HOSTS"], rows)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_at_the_end_is_left_out() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text_of(text.as_bytes(), "x").unwrap().expose(), expected, "{text:?}");
        };
        check("value\n", "value");
        check("value\r\n", "value");
        check("value", "value");
        check(" a b \n", " a b ");
        check("two\nlines\n\n", "two\nlines\n");
        check("\n", "");
    }

    #[test]
    fn what_is_too_long_or_no_text_is_refused() {
        let long = "x".repeat(MAX_VALUE);
        assert_eq!(text_of(format!("{long}\n").as_bytes(), "x").unwrap().fault(), None);
        let longer = text_of("y".repeat(MAX_VALUE * 2).as_bytes(), "x").unwrap();
        assert!(longer.fault().is_some());
        let error = text_of(&b"hunter2\xff"[..], "the file").unwrap_err().to_string();
        assert!(error.contains("the file") && !error.contains("hunter2"), "{error}");
    }
}
