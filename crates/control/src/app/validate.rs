//! What is accepted in requests, beyond what their types say. Pure.

use crate::app::policies;
use model::agent::Command;
use model::api::{CreateAgent, RegisterImage};
use model::egress::{EgressReport, MAX_QUESTIONS, MAX_RECORDS, MAX_TEXT, Question, Record};
use model::node_api::{Enroll, ObservedAgent};
use model::packages::Packages;
use model::secret::{self, SecretUse, SecretValue};
use model::{AgentId, ExitReason, Problem, Span, policy};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use time::OffsetDateTime;

type Checked = Result<(), Problem>;

const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY: usize = 63;
const MAX_LABEL_VALUE: usize = 255;
/// Arguments and environment together; execve(2) takes more, nobody needs it.
const MAX_COMMAND: usize = 128 << 10;
const MAX_PATH: usize = 4096;
/// Ids inside an agent are 0 to 65535, and the last one is nobody's.
const MAX_ID: u32 = 65_534;
const MAX_SPAN: u64 = 3650 * 86_400;
const MAX_SLOTS: u32 = 10_000;
/// What a node says of an agent is cut to this many characters.
const MAX_DETAIL: usize = 1024;
const MAX_EVIDENCE: usize = 64;
const MAX_URL: usize = 256;
/// Of a host in the log, in bytes; no name is longer.
const MAX_HOST: usize = 253;
/// What every reader of JSON takes for a whole number (RFC 8259, section 6).
const MAX_NUMBER: u64 = (1 << 53) - 1;
/// The longest that a question is taken to wait.
const MAX_HOLD: time::Duration = time::Duration::minutes(10);

fn check(holds: bool, field: impl Into<String>, detail: &str) -> Checked {
    if holds { Ok(()) } else { Err(Problem::invalid(field, detail)) }
}

/// Text from a client, fit to be named in an answer.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn printable(text: &str, max: usize) -> bool {
    text.chars().count() <= max && !text.chars().any(char::is_control)
}

pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Checked {
    check(labels.len() <= MAX_LABELS, "labels", "an agent carries at most 64 labels")?;
    for (key, value) in labels {
        let fits = !key.is_empty() && !key.contains('=') && printable(key, MAX_LABEL_KEY);
        check(
            fits,
            format!("labels.{}", shown(key)),
            "a label's key has 1 to 63 printable characters and no '='",
        )?;
        check(
            printable(value, MAX_LABEL_VALUE),
            format!("labels.{}", shown(key)),
            "a label's value has at most 255 printable characters",
        )?;
    }
    Ok(())
}

fn env(field: &str, env: &BTreeMap<String, String>) -> Checked {
    let mut total = 0;
    for (name, value) in env {
        let field = format!("{field}.{}", shown(name));
        let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        check(named, &field, "a variable's name is made of A-Z, a-z, 0-9 and '_', and starts with no digit")?;
        check(!value.contains('\0'), &field, "a variable's value cannot hold a NUL character")?;
        total += name.len() + value.len() + 2;
    }
    check(total <= MAX_COMMAND, field, "the environment is limited to 128 KiB in all")
}

fn cwd(field: &str, cwd: Option<&str>) -> Checked {
    let Some(cwd) = cwd else { return Ok(()) };
    let fits = cwd.starts_with('/') && cwd.len() <= MAX_PATH && !cwd.contains('\0');
    check(fits, field, "a working directory is an absolute path of at most 4096 bytes without NUL")
}

fn words(field: &str, words: &[String]) -> Checked {
    for (index, word) in words.iter().enumerate() {
        check(!word.contains('\0'), format!("{field}[{index}]"), "an argument cannot hold a NUL character")?;
    }
    let total: usize = words.iter().map(|word| word.len() + 1).sum();
    check(total <= MAX_COMMAND, field, "arguments are limited to 128 KiB in all")
}

fn command(command: &Command) -> Checked {
    words("main.argv", &command.argv)?;
    env("main.env", &command.env)?;
    cwd("main.cwd", command.cwd.as_deref())
}

/// A main process as it will run: its image's entrypoint and command are part of it.
pub(crate) fn main(command: &Command) -> Checked {
    let named = command.argv.first().is_some_and(|program| !program.is_empty());
    check(named, "main.argv", "a command names a program, and this image has none of its own").map_err(
        |problem| {
            problem
                .remedy("give the command, or no main process: then the agent is a place to start execs in")
        },
    )?;
    words("main.argv", &command.argv)
}

fn span(field: &str, span: Option<Span>) -> Checked {
    let fits = span.is_none_or(|span| (1..=MAX_SPAN).contains(&span.0));
    check(fits, field, "a time must be between 1s and 3650d")
}

pub(crate) fn create_agent(request: &CreateAgent) -> Checked {
    request.resources.validate().map_err(|error| Problem::invalid(error.field, error.to_string()))?;
    labels(&request.labels)?;
    env("env", &request.env)?;
    words("entrypoint", request.entrypoint.as_deref().unwrap_or_default())?;
    span("ttl", request.ttl)?;
    span("idle_timeout", request.idle_timeout)?;
    let main = request.main.as_ref().map(|main| &main.env);
    secret_uses(&request.secrets, &request.env, main)?;
    if let Some(policy) = &request.policy {
        policies::check(policy, request.unrestricted, "policy.")?;
        policies::check_variables(policy, &request.secrets, &request.env, "policy.")?;
    }
    request.main.as_ref().map_or(Ok(()), command)
}

/// Secrets that an agent is given itself. Each has a place of its own.
fn secret_uses(
    uses: &[SecretUse],
    env: &BTreeMap<String, String>,
    main: Option<&BTreeMap<String, String>>,
) -> Checked {
    check(uses.len() <= secret::MAX_USES, "secrets", "an agent is given at most 16 secrets")?;
    let mut places = BTreeSet::new();
    for (index, given) in uses.iter().enumerate() {
        let field = |key: &str| format!("secrets[{index}].{key}");
        if let Some((key, message, remedy)) = given.fault() {
            let problem = Problem::invalid(field(key), format!("`{key}` {message}"));
            return Err(problem.remedy(remedy));
        }
        let key = if given.env.is_some() { "env" } else { "file" };
        let taken = given.env.as_ref().is_some_and(|variable| {
            env.contains_key(variable) || main.is_some_and(|main| main.contains_key(variable))
        });
        check(!taken, field(key), "the agent has this variable for something else")?;
        let own = places.insert((&given.env, &given.file));
        check(own, field(key), "another secret has this place already")?;
    }
    Ok(())
}

pub(crate) fn secret_value(value: &SecretValue) -> Checked {
    match value.fault() {
        None => Ok(()),
        Some((message, remedy)) => {
            Err(Problem::invalid("value", format!("the value {message}")).remedy(remedy))
        }
    }
}

pub(crate) fn secret_hosts(hosts: &[String]) -> Checked {
    check(hosts.len() <= secret::MAX_HOSTS, "hosts", "a secret is for at most 64 hosts").map_err(
        |problem| {
            problem.remedy("name what they have in common, as in `*.example.com`, or make several secrets")
        },
    )?;
    for (index, host) in hosts.iter().enumerate() {
        if host.len() > MAX_HOST + 2 || !policy::is_host_of_secret(host) {
            let detail = "expected the name of a host";
            let remedy = "write a name such as `api.example.com`, or `*.example.com` for all below it";
            return Err(Problem::invalid(format!("hosts[{index}]"), detail).remedy(remedy));
        }
    }
    Ok(())
}

pub(crate) fn register_image(request: &RegisterImage) -> Checked {
    let digest = &request.digest;
    let hex = digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    check(hex, "digest", "a digest is 64 lowercase hexadecimal digits: the SHA-256 of the EROFS file")?;
    check((1..=1 << 46).contains(&request.size), "size", "a size is between 1 byte and 64 TiB")?;
    if let Some(fault) = request.packages.as_ref().and_then(Packages::fault) {
        return Err(Problem::invalid("packages", fault));
    }
    let config = &request.config;
    env("config.env", &config.env)?;
    words("config.entrypoint", &config.entrypoint)?;
    words("config.cmd", &config.cmd)?;
    if let Some(user) = &config.user {
        let fits = user.uid <= MAX_ID && user.gid <= MAX_ID;
        check(fits, "config.user", "ids in an agent are 0 to 65534")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
        let name = user.name.as_deref().unwrap_or("agent");
        let named = (1..=32).contains(&name.len()) && name.chars().all(plain);
        check(named, "config.user.name", "a user's name is 1 to 32 of A-Z, a-z, 0-9, '_', '-', '.' and '$'")?;
    }
    cwd("config.cwd", config.cwd.as_deref())
}

pub(crate) fn enroll(request: &Enroll) -> Checked {
    let capacity = request.capacity;
    check((1..=MAX_SLOTS).contains(&capacity.slots), "capacity.slots", "a node offers 1 to 10000 slots")?;
    let cpus = capacity.cpus.is_finite() && (0.0..=100_000.0).contains(&capacity.cpus);
    check(cpus, "capacity.cpus", "a node has between 0 and 100000 cores")?;
    check(capacity.memory <= 1 << 53, "capacity.memory", "a node has at most 8 PiB of memory")
}

/// Cuts and cleans what a node says of what left its agents: most of it comes from inside. What could be no question is none: it
/// may become a rule.
pub(crate) fn tame_egress(report: &mut EgressReport, now: OffsetDateTime) -> Checked {
    let records = format!("one report has at most {MAX_RECORDS} records");
    check(report.records.len() <= MAX_RECORDS, "records", &records)?;
    for Record { connection, .. } in &mut report.records {
        // Names are ASCII, and so are addresses.
        let shown = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        connection.host = connection.host.chars().map(shown).take(MAX_HOST).collect();
        let clean = |text: &mut String| {
            *text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            text.truncate(text.floor_char_boundary(MAX_TEXT));
        };
        clean(&mut connection.by);
        connection.end.iter_mut().for_each(clean);
        connection.at = connection.at.min(now);
        connection.count = connection.count.max(1);
        for number in [&mut connection.sent, &mut connection.received, &mut connection.duration_ms] {
            *number = (*number).min(MAX_NUMBER);
        }
    }
    report.lost.iter_mut().for_each(|lost| lost.count = lost.count.min(MAX_NUMBER));
    let mut left: BTreeMap<AgentId, usize> = BTreeMap::new();
    for waiting in report.questions.iter_mut().flatten() {
        let left = left.entry(waiting.agent).or_insert(MAX_QUESTIONS);
        waiting.questions.retain(is_question);
        waiting.questions.truncate(*left);
        *left -= waiting.questions.len();
        waiting.questions.iter_mut().for_each(|question| question.until = over(question, now));
    }
    Ok(())
}

/// Whether a rule can be made of it: a name in its normal form, or a plain address. And its time is one that can be kept to the last
/// digit.
fn is_question(question: &Question) -> bool {
    let host = question.host.as_str();
    let address = |address: IpAddr| address.to_canonical() == address && address.to_string() == host;
    let named = host.parse().map_or_else(|_| policy::name(host).as_deref() == Some(host), address);
    named && question.port != 0 && i64::try_from(question.asked.unix_timestamp_nanos()).is_ok()
}

/// When a question is over, by the clock of control. A node's may be another; then it is its word on how long that counts.
fn over(question: &Question, now: OffsetDateTime) -> OffsetDateTime {
    if question.until > now && question.until - now <= MAX_HOLD {
        return question.until;
    }
    now + (question.until - question.asked).clamp(time::Duration::ZERO, MAX_HOLD)
}

/// Cuts and cleans what a node says of an agent: parts of it come from inside.
pub(crate) fn tame(report: &mut ObservedAgent, now: OffsetDateTime) {
    let clean = |text: &mut String| {
        *text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL).collect();
    };
    report.evidence.truncate(MAX_EVIDENCE);
    report.evidence.iter_mut().for_each(|evidence| clean(&mut evidence.detail));
    if let Some(ExitReason::Lost { detail } | ExitReason::Boundary { detail }) = &mut report.reason {
        clean(detail);
    }
    if let Some(observation) = &mut report.observation {
        clean(&mut observation.kernel);
        clean(&mut observation.version);
        clean(&mut observation.init);
        // A node's clock may run ahead; nothing was seen in the future.
        observation.at = observation.at.min(now);
    }
    let is_origin = |url: &String| {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '[' | ']');
        url.len() <= MAX_URL && rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(plain))
    };
    report.workspace_url = report.workspace_url.take().filter(is_origin);
}
