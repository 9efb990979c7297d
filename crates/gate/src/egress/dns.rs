//! DNS in both directions (RFC 1035, RFC 6891): answers for agents, and questions to this node's resolver. Only bytes: who asks
//! whom is not known here.
//!
//! An agent learns nothing from the answers but which names it may connect to. What the resolver says is hostile: whoever has a
//! name decides what is answered for it.

#[cfg(test)]
mod tests;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How long an agent may keep an answer, in seconds.
const TTL: u32 = 10;
/// What we say that we take by UDP.
const PAYLOAD: u16 = 1232;
/// A question has one name and few options.
const MAX_QUESTION: usize = 4096;
/// Names that lead from one to the next until there is an address.
const MAX_CHAIN: usize = 16;
/// Addresses of one name.
const MAX_ADDRESSES: usize = 32;

/// What an agent is told about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It may not know it.
    Refused,
    /// It could, but not now.
    Failed,
    /// What stands for it.
    Addresses {
        /// For IPv4.
        v4: Ipv4Addr,
        /// For IPv6.
        v6: Ipv6Addr,
    },
}

/// Answers a question of an agent. `lookup` is asked at most once, with a name that is normal as of [`model::policy::name`]. `None`
/// for what is no question at all. An answer has less than 512 bytes, which every client takes.
pub fn answer(question: &[u8], lookup: impl FnOnce(&str) -> Answer) -> Option<Vec<u8>> {
    // Id, flags, and how many questions.
    let head = question.get(..12)?;
    let id = u16::from_be_bytes([head[0], head[1]]);
    let op_code = OpCode::from_u8(head[2] >> 3 & 0xf);
    if head[2] & 0x80 != 0 {
        return None;
    }
    let error = |code| Message::error_msg(id, op_code, code).to_vec().ok();
    if op_code != OpCode::Query {
        return error(ResponseCode::NotImp);
    }
    if head[4..6] != [0, 1] || question.len() > MAX_QUESTION {
        return error(ResponseCode::FormErr);
    }
    let Ok(asked) = Message::from_vec(question) else { return error(ResponseCode::FormErr) };
    let [query] = asked.queries.as_slice() else { return error(ResponseCode::FormErr) };

    let mut reply = Message::response(id, OpCode::Query);
    reply.metadata = Metadata::response_from_request(&asked.metadata);
    reply.metadata.recursion_available = true;
    reply.add_query(query.clone());
    if let Some(edns) = &asked.edns {
        let mut own = Edns::new();
        own.set_max_payload(PAYLOAD).set_dnssec_ok(edns.flags().dnssec_ok);
        reply.set_edns(own);
    }
    reply.metadata.response_code = match () {
        () if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) => ResponseCode::BADVERS,
        () if query.query_class() != DNSClass::IN => ResponseCode::Refused,
        () => match text(query.name()).map_or(Answer::Refused, |name| lookup(&name)) {
            Answer::Refused => ResponseCode::Refused,
            Answer::Failed => ResponseCode::ServFail,
            Answer::Addresses { v4, v6 } => {
                let data = match query.query_type() {
                    RecordType::A => Some(RData::A(A(v4))),
                    RecordType::AAAA => Some(RData::AAAA(AAAA(v6))),
                    _ => None,
                };
                reply.answers.extend(data.map(|data| Record::from_rdata(query.name().clone(), TTL, data)));
                ResponseCode::NoError
            }
        },
    };
    reply.to_vec().ok()
}

/// A name of the DNS, where each label could hold any byte, as one of ours.
fn text(name: &Name) -> Option<String> {
    let mut text = String::new();
    for label in name.iter() {
        // A dot within a label would make two of it.
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)) {
            return None;
        }
        text.push_str(std::str::from_utf8(label).ok()?);
        text.push('.');
    }
    model::policy::name(&text)
}

/// Which addresses of a name are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Of IPv4.
    V4,
    /// Of IPv6.
    V6,
}

impl Family {
    fn record(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }
}

/// Why a reply names no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// It is the reply to another question.
    #[error("the resolver answered another question")]
    Foreign,
    /// It cannot be read, or is not whole.
    #[error("the resolver's answer could not be read")]
    Malformed,
    /// NXDOMAIN.
    #[error("there is no such name")]
    NoSuchName,
    /// SERVFAIL, REFUSED, or another error, by its number (RFC 6895, section 2.3).
    #[error("the resolver could not tell (error {0})")]
    Failed(u16),
}

/// A question for the resolver; `name` is normal as of [`model::policy::name`].
pub fn query(name: &str, family: Family, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    // A normal name is always one of the DNS. Of another, the root is asked about, which has no address.
    message.add_query(Query::query(dns_name(name).unwrap_or_default(), family.record()));
    message.to_vec().unwrap_or_default()
}

fn dns_name(name: &str) -> Option<Name> {
    let mut name = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The addresses that a reply to [`query`] names, through aliases too, each once and at most [`MAX_ADDRESSES`]. There may be none.
/// Whether they may be connected to is not asked here.
pub fn addresses(reply: &[u8], id: u16, name: &str, family: Family) -> Result<Vec<IpAddr>, Unresolved> {
    let head = reply.get(..12).ok_or(Unresolved::Malformed)?;
    if head[..2] != id.to_be_bytes() || head[2] & 0x80 == 0 {
        return Err(Unresolved::Foreign);
    }
    // Room for all questions is made before they are read.
    if head[4..6] > [0, 1][..] {
        return Err(Unresolved::Malformed);
    }
    let message = Message::from_vec(reply).map_err(|_| Unresolved::Malformed)?;
    let name = dns_name(name).ok_or(Unresolved::Foreign)?;
    let code = message.metadata.response_code;
    match message.queries.as_slice() {
        [query]
            if query.name() == &name
                && query.query_type() == family.record()
                && is_in(query.query_class()) => {}
        // Servers that did not even read the question do not repeat it.
        [] if code != ResponseCode::NoError && code != ResponseCode::NXDomain => {}
        _ => return Err(Unresolved::Foreign),
    }
    match code {
        ResponseCode::NoError if message.metadata.truncation => Err(Unresolved::Malformed),
        ResponseCode::NoError => Ok(follow(&message.answers, name, family)),
        ResponseCode::NXDomain => Err(Unresolved::NoSuchName),
        code => Err(Unresolved::Failed(code.into())),
    }
}

fn is_in(class: DNSClass) -> bool {
    class == DNSClass::IN
}

/// From alias to alias within one reply, in whatever order its records are.
fn follow(answers: &[Record], mut name: Name, family: Family) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for _ in 0..MAX_CHAIN {
        let mut alias = None;
        for record in answers.iter().filter(|record| is_in(record.dns_class) && record.name == name) {
            let address = match (&record.data, family) {
                (RData::A(address), Family::V4) => IpAddr::V4(address.0),
                (RData::AAAA(address), Family::V6) => IpAddr::V6(address.0),
                (RData::CNAME(target), _) => {
                    alias.get_or_insert_with(|| target.0.clone());
                    continue;
                }
                _ => continue,
            };
            if found.len() < MAX_ADDRESSES && !found.contains(&address) {
                found.push(address);
            }
        }
        match alias {
            Some(target) if found.is_empty() => name = target,
            _ => break,
        }
    }
    found
}
