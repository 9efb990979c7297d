//! The packet rules of the dry network (`linux/netfilter/nf_tables.h`): every TCP connection to elsewhere is handed to the
//! door, with the address that it was meant for.
//!
//! By `tproxy`, which tracks nothing: where connections are rewritten instead, an agent that opens many slows down everybody.

use super::netlink::{Attributes, Link, Order, message, same};
use super::{DOOR, Found};
use rustix::io::Errno;
use std::io;
use std::sync::LazyLock;

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;

/// `struct nfgenmsg`: family, version, and a number that is the subsystem's in a batch, and that of the rules' generation in an
/// answer.
const FIXED: usize = 4;
const INET: u8 = 1;

const TABLE: &str = "dry";
const CHAIN: &str = "pre";
const PREROUTING: u32 = 0;
/// `mangle`: where others mark packets, too.
const PRIORITY: i32 = -150;
const ACCEPT: u32 = 1;
const BASE_CHAIN: u32 = 1;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USE: u16 = 3;
const TABLE_HANDLE: u16 = 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;
const CHAIN_TYPE: u16 = 7;
const CHAIN_FLAGS: u16 = 10;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_POSITION: u16 = 6;

/// What was sent, by what it makes.
struct Ours {
    table: Attributes,
    chain: Attributes,
    rules: [Attributes; 3],
    batch: Vec<u8>,
}

static OURS: LazyLock<Ours> = LazyLock::new(|| {
    let table = Attributes::default().text(TABLE_NAME, TABLE).number(TABLE_FLAGS, 0);
    let hook = Attributes::default().number(1, PREROUTING).number(2, PRIORITY as u32);
    let chain = Attributes::default()
        .text(CHAIN_TABLE, TABLE)
        .text(CHAIN_NAME, CHAIN)
        .nest(CHAIN_HOOK, hook)
        .number(CHAIN_POLICY, ACCEPT)
        .text(CHAIN_TYPE, "filter");
    let rules = [
        // ip daddr 127.0.0.0/8 accept
        rule([meta(META_NFPROTO), is(&[2]), header(16, 1), is(&[127]), accept()]),
        // ip6 daddr ::1 accept
        rule([
            meta(META_NFPROTO),
            is(&[10]),
            header(24, 16),
            is(&std::net::Ipv6Addr::LOCALHOST.octets()),
            accept(),
        ]),
        // meta l4proto tcp tproxy to :15001
        rule([meta(META_L4PROTO), is(&[6]), load(&DOOR.to_be_bytes()), tproxy()]),
    ];
    let of = |kind, order, attributes: &Attributes| message(kind, order, &[INET, 0, 0, 0], attributes);
    let mark = |kind| {
        let [high, low] = (SUBSYSTEM >> 8).to_be_bytes();
        message(kind, Order::Mark, &[0, 0, high, low], &Attributes::default())
    };
    let mut batch =
        vec![mark(BATCH_BEGIN), of(NEW_TABLE, Order::Make, &table), of(NEW_CHAIN, Order::Make, &chain)];
    batch.extend(rules.iter().map(|rule| of(NEW_RULE, Order::Append, rule)));
    batch.push(mark(BATCH_END));
    Ours { table, chain, rules, batch: batch.concat() }
});

/// The register that values are compared in.
const REGISTER: u32 = 1;
/// The register of the verdict.
const VERDICT: u32 = 0;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

fn rule<const N: usize>(expressions: [Attributes; N]) -> Attributes {
    let list = expressions.into_iter().fold(Attributes::default(), |list, one| list.nest(1, one));
    Attributes::default().text(RULE_TABLE, TABLE).text(RULE_CHAIN, CHAIN).nest(RULE_EXPRESSIONS, list)
}

fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::default().text(1, name).nest(2, data)
}

/// Loads something about the packet.
fn meta(key: u32) -> Attributes {
    expression("meta", Attributes::default().number(2, key).number(1, REGISTER))
}

/// Loads bytes of the network header.
fn header(offset: u32, length: u32) -> Attributes {
    const NETWORK_HEADER: u32 = 1;
    let place = Attributes::default().number(1, REGISTER).number(2, NETWORK_HEADER);
    expression("payload", place.number(3, offset).number(4, length))
}

/// Goes on if that is what was loaded.
fn is(value: &[u8]) -> Attributes {
    const EQUAL: u32 = 0;
    let value = Attributes::default().put(1, value);
    expression("cmp", Attributes::default().number(1, REGISTER).number(2, EQUAL).nest(3, value))
}

fn load(value: &[u8]) -> Attributes {
    let value = Attributes::default().put(1, value);
    expression("immediate", Attributes::default().number(1, REGISTER).nest(2, value))
}

fn accept() -> Attributes {
    let verdict = Attributes::default().nest(2, Attributes::default().number(1, ACCEPT));
    expression("immediate", Attributes::default().number(1, VERDICT).nest(2, verdict))
}

/// Hands the packet to the transparent socket that listens at the port that was loaded, whatever family it is of.
fn tproxy() -> Attributes {
    const ANY_FAMILY: u32 = 0;
    expression("tproxy", Attributes::default().number(1, ANY_FAMILY).number(3, REGISTER))
}

/// Makes the table with all that is in it, or nothing. There may be none yet.
pub(super) fn set(link: &Link) -> io::Result<()> {
    link.order(&OURS.batch)
}

/// Compares all tables, chains and rules.
pub(super) fn look(link: &Link) -> io::Result<Found> {
    let ours = &*OURS;
    let tables = match dump(link, GET_TABLE, NEW_TABLE) {
        // The kernel has no nf_tables, or has not loaded it.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => return Ok(Found::None),
        tables => tables?,
    };
    if tables.is_empty() {
        return Ok(Found::None);
    }
    let added = |kind, value: &[u8]| match kind {
        // One chain, and neither sets nor anything else.
        TABLE_USE => value == 1_u32.to_be_bytes(),
        kind => kind == TABLE_HANDLE,
    };
    if let Some(foreign) = differ("table", &tables, std::slice::from_ref(&ours.table), added)? {
        return Ok(Found::Foreign(foreign));
    }
    let chains = dump(link, GET_CHAIN, NEW_CHAIN)?;
    let added = |kind, value: &[u8]| match kind {
        CHAIN_USE => value == (ours.rules.len() as u32).to_be_bytes(),
        CHAIN_FLAGS => value == BASE_CHAIN.to_be_bytes(),
        kind => kind == CHAIN_HANDLE,
    };
    if let Some(foreign) = differ("chain", &chains, std::slice::from_ref(&ours.chain), added)? {
        return Ok(Found::Foreign(foreign));
    }
    let rules = dump(link, GET_RULE, NEW_RULE)?;
    // The position is the handle of the rule before it.
    let added = |kind, _: &[u8]| matches!(kind, RULE_HANDLE | RULE_POSITION);
    let foreign = differ("rule", &rules, &ours.rules, added)?;
    Ok(foreign.map_or(Found::Ours, Found::Foreign))
}

/// All of a kind in the namespace, of every family.
fn dump(link: &Link, ask: u16, kind: u16) -> io::Result<Vec<Vec<u8>>> {
    let all = link.dump(ask, &[0; FIXED])?;
    Ok(all.into_iter().filter(|(is, _)| *is == kind).map(|(_, body)| body).collect())
}

/// In what way they are not those that were sent, in this order.
fn differ(
    what: &str,
    seen: &[Vec<u8>],
    sent: &[Attributes],
    added: impl Fn(u16, &[u8]) -> bool,
) -> io::Result<Option<String>> {
    if seen.len() != sent.len() {
        return Ok(Some(format!("{what}s: {}, not {}", seen.len(), sent.len())));
    }
    for (number, (seen, sent)) in seen.iter().zip(sent).enumerate() {
        let (fixed, rest) = seen.split_at_checked(FIXED).ok_or(io::ErrorKind::InvalidData)?;
        if fixed[0] != INET || !same(sent, rest, &added)? {
            return Ok(Some(format!("{what} {} is not ours", number + 1)));
        }
    }
    Ok(None)
}
