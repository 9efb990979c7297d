use super::*;
use hickory_proto::rr::rdata::CNAME;
use proptest::prelude::*;
use std::str::FromStr;

const V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 7);
const V6: Ipv6Addr = Ipv6Addr::new(0xfdcf, 0xd, 0, 0, 0, 0, 0, 7);

/// Only what is at example.com has an address.
fn lookup(name: &str) -> Answer {
    match name {
        "example.com" | "_x.example.com" => Answer::Addresses { v4: V4, v6: V6 },
        "full.example" => Answer::Failed,
        name if name.len() == 253 => Answer::Addresses { v4: V4, v6: V6 },
        _ => Answer::Refused,
    }
}

fn asks(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    message
}

fn answered(question: &Message) -> Message {
    let bytes = answer(&question.to_vec().unwrap(), lookup).unwrap();
    assert!(bytes.len() <= 512, "{}", bytes.len());
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!(reply.metadata.id, 0x1234);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert!(!reply.metadata.authentic_data && !reply.metadata.truncation);
    reply
}

#[test]
fn questions_of_agents() {
    let check = |name: &str, kind: RecordType, code: ResponseCode, data: Option<RData>| {
        let question = asks(name, kind);
        let reply = answered(&question);
        assert_eq!(reply.metadata.response_code, code, "{name} {kind}");
        assert!(reply.metadata.recursion_desired && reply.metadata.recursion_available);
        // As it was asked, with its capitals.
        assert!(reply.queries[0].name().eq_case(question.queries[0].name()));
        assert_eq!(
            reply.answers.iter().map(|record| record.data.clone()).collect::<Vec<_>>(),
            Vec::from_iter(data)
        );
        assert!(
            reply
                .answers
                .iter()
                .all(|record| record.ttl == TTL && record.name == *question.queries[0].name())
        );
        assert!(reply.edns.is_none() && reply.authorities.is_empty() && reply.additionals.is_empty());
    };
    let (a, aaaa) = (Some(RData::A(A(V4))), Some(RData::AAAA(AAAA(V6))));
    check("example.com.", RecordType::A, ResponseCode::NoError, a.clone());
    check("eXample.COM.", RecordType::AAAA, ResponseCode::NoError, aaaa.clone());
    check("_x.example.com.", RecordType::A, ResponseCode::NoError, a);
    for kind in [RecordType::HTTPS, RecordType::SVCB, RecordType::MX, RecordType::TXT, RecordType::ANY] {
        check("example.com.", kind, ResponseCode::NoError, None);
        check("other.example.", kind, ResponseCode::Refused, None);
    }
    check("other.example.", RecordType::A, ResponseCode::Refused, None);
    check("full.example.", RecordType::A, ResponseCode::ServFail, None);
    check(".", RecordType::NS, ResponseCode::Refused, None);
    check("example\\.com.", RecordType::A, ResponseCode::Refused, None);
    check("127.0.0.1.", RecordType::A, ResponseCode::Refused, None);
    // The longest name, and with EDNS too.
    let long = [&*"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].join(".");
    check(&format!("{long}."), RecordType::AAAA, ResponseCode::NoError, aaaa);
    let mut question = asks(&format!("{long}."), RecordType::AAAA);
    question.set_edns(Edns::new());
    assert_eq!(answered(&question).answers.len(), 1);
}

#[test]
fn odd_questions_of_agents() {
    let code = |question: &Message| answered(question).metadata.response_code;
    let mut question = asks("example.com.", RecordType::A);
    question.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&question), ResponseCode::Refused);

    let mut question = asks("example.com.", RecordType::A);
    question.metadata.authentic_data = true;
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    question.set_edns(edns.clone());
    let reply = answered(&question);
    let own = reply.edns.as_ref().unwrap();
    assert!(own.flags().dnssec_ok && own.max_payload() == PAYLOAD && own.options().as_ref().is_empty());
    assert_eq!(reply.answers.len(), 1);
    edns.set_version(1);
    question.set_edns(edns);
    let reply = answered(&question);
    // BADVERS, which has a number with another one.
    assert_eq!((u16::from(reply.metadata.response_code), reply.answers.len()), (16, 0));

    let mut question = asks("example.com.", RecordType::A);
    for label in [&b"ex\0ample"[..], b"ex ample", b"\xff", b"example.com"] {
        question.queries[0].name = Name::from_labels([label, b"com"]).unwrap();
        assert_eq!(code(&question), ResponseCode::Refused);
    }

    let mut question = asks("example.com.", RecordType::A);
    for op_code in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        question.metadata.op_code = op_code;
        assert_eq!(code(&question), ResponseCode::NotImp);
    }
    question.metadata.op_code = OpCode::Query;
    question.metadata.message_type = MessageType::Response;
    assert_eq!(answer(&question.to_vec().unwrap(), lookup), None);
    question.metadata.message_type = MessageType::Query;
    question.add_query(question.queries[0].clone());
    assert_eq!(code(&question), ResponseCode::FormErr);
    question.queries.clear();
    assert_eq!(code(&question), ResponseCode::FormErr);
    assert_eq!(answer(b"", lookup), None);
    assert_eq!(answer(&[0; 11], lookup), None);
    let whole = asks("example.com.", RecordType::A).to_vec().unwrap();
    for cut in 12..whole.len() {
        let reply = Message::from_vec(&answer(&whole[..cut], lookup).unwrap()).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (0x1234, ResponseCode::FormErr));
    }
}

fn record(name: &str, data: RData) -> Record {
    Record::from_rdata(Name::from_str(name).unwrap(), 60, data)
}

fn alias(name: &str, target: &str) -> Record {
    record(name, RData::CNAME(CNAME(Name::from_str(target).unwrap())))
}

fn v4(name: &str, last: u8) -> Record {
    record(name, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
}

fn replies(name: &str, kind: RecordType, answers: Vec<Record>) -> Message {
    let mut message = asks(name, kind).into_response();
    message.insert_answers(answers);
    message
}

fn read(reply: &Message) -> Result<Vec<String>, Unresolved> {
    let addresses = addresses(&reply.to_vec().unwrap(), 0x1234, "example.com", Family::V4)?;
    Ok(addresses.iter().map(IpAddr::to_string).collect())
}

#[test]
fn what_is_asked_is_what_was_meant() {
    for (family, kind) in [(Family::V4, RecordType::A), (Family::V6, RecordType::AAAA)] {
        let asked = Message::from_vec(&query("_a.example.com", family, 7)).unwrap();
        assert_eq!((asked.metadata.id, asked.metadata.recursion_desired), (7, true));
        assert_eq!(asked.queries, [Query::query(Name::from_str("_a.example.com.").unwrap(), kind)]);
    }
}

#[test]
fn addresses_in_replies() {
    let check = |answers: Vec<Record>, expected: &[&str]| {
        assert_eq!(read(&replies("example.com.", RecordType::A, answers)).unwrap(), expected);
    };
    check(vec![], &[]);
    check(
        vec![v4("Example.COM.", 1), v4("example.com.", 2), v4("example.com.", 1)],
        &["192.0.2.1", "192.0.2.2"],
    );
    check(vec![v4("other.example.", 1)], &[]);
    // Aliases in any order.
    check(
        vec![v4("c.example.", 3), alias("b.example.", "c.example."), alias("example.com.", "B.example.")],
        &["192.0.2.3"],
    );
    check(vec![alias("example.com.", "a.example."), v4("b.example.", 1)], &[]);
    check(vec![alias("example.com.", "a.example."), alias("a.example.", "example.com.")], &[]);
    check(vec![alias("example.com.", "example.com.")], &[]);
    check(vec![record("example.com.", RData::AAAA(AAAA(V6)))], &[]);
    let mut chaos = v4("example.com.", 9);
    chaos.dns_class = DNSClass::CH;
    check(vec![chaos], &[]);
    let step =
        |index: usize| if index == 0 { "example.com.".to_owned() } else { format!("a{index}.example.") };
    let chain = |length: usize| {
        let mut chain: Vec<Record> = (0..length).map(|index| alias(&step(index), &step(index + 1))).collect();
        chain.push(v4(&step(length), 1));
        chain
    };
    check(chain(MAX_CHAIN - 1), &["192.0.2.1"]);
    check(chain(MAX_CHAIN), &[]);
    let many = (0..100).map(|last| v4("example.com.", last)).collect();
    assert_eq!(read(&replies("example.com.", RecordType::A, many)).unwrap().len(), MAX_ADDRESSES);

    let reply =
        replies("example.com.", RecordType::AAAA, vec![record("example.com.", RData::AAAA(AAAA(V6)))]);
    let found = addresses(&reply.to_vec().unwrap(), 0x1234, "example.com", Family::V6);
    assert_eq!(found, Ok(vec![V6.into()]));
}

#[test]
fn replies_that_name_no_address() {
    let good = || replies("example.com.", RecordType::A, vec![v4("example.com.", 1)]);
    let check = |change: &dyn Fn(&mut Message), expected: Unresolved| {
        let mut reply = good();
        change(&mut reply);
        assert_eq!(read(&reply), Err(expected));
    };
    check(&|reply| reply.metadata.id = 1, Unresolved::Foreign);
    check(&|reply| reply.metadata.message_type = MessageType::Query, Unresolved::Foreign);
    check(&|reply| reply.queries[0].name = Name::from_str("other.example.").unwrap(), Unresolved::Foreign);
    check(&|reply| reply.queries[0].query_type = RecordType::AAAA, Unresolved::Foreign);
    check(&|reply| reply.queries[0].query_class = DNSClass::CH, Unresolved::Foreign);
    check(&|reply| reply.queries.clear(), Unresolved::Foreign);
    check(&|reply| reply.queries.push(reply.queries[0].clone()), Unresolved::Malformed);
    check(&|reply| reply.metadata.truncation = true, Unresolved::Malformed);
    check(&|reply| reply.metadata.response_code = ResponseCode::NXDomain, Unresolved::NoSuchName);
    check(&|reply| reply.metadata.response_code = ResponseCode::ServFail, Unresolved::Failed(2));
    check(&|reply| reply.metadata.response_code = ResponseCode::Refused, Unresolved::Failed(5));
    check(
        &|reply| {
            reply.queries.clear();
            reply.metadata.response_code = ResponseCode::FormErr;
        },
        Unresolved::Failed(1),
    );
    let whole = good().to_vec().unwrap();
    for cut in 0..whole.len() {
        assert_eq!(
            addresses(&whole[..cut], 0x1234, "example.com", Family::V4),
            Err(Unresolved::Malformed),
            "{cut}"
        );
    }
}

proptest! {
    #[test]
    fn nothing_that_comes_is_harmful(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), fix in any::<bool>()) {
        if fix && bytes.len() >= 12 {
            // So that more than the head is read.
            bytes[..6].copy_from_slice(&[0x12, 0x34, 0x01, 0x00, 0, 1]);
        }
        if let Some(reply) = answer(&bytes, lookup) {
            prop_assert!(reply.len() <= 512 && reply[2] & 0x80 != 0 && reply[..2] == bytes[..2]);
        }
        if fix && bytes.len() >= 12 {
            bytes[2] = 0x81;
        }
        let _ = addresses(&bytes, 0x1234, "example.com", Family::V4);
    }

    #[test]
    fn a_changed_reply_names_no_address_that_is_not_in_it(at in 0usize..100, byte in any::<u8>()) {
        let mut bytes = replies("example.com.", RecordType::A, vec![alias("example.com.", "a.example."), v4("a.example.", 1)])
            .to_vec().unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(found) = addresses(&bytes, 0x1234, "example.com", Family::V4) {
            prop_assert!(found.len() <= 1);
        }
    }

    #[test]
    fn what_is_asked_is_answered(name in "[a-z_]{1,63}(\\.[a-z0-9]{1,20}){0,3}\\.[a-z]{2,10}") {
        prop_assume!(model::policy::name(&name).as_deref() == Some(&name));
        let reply = answer(&query(&name, Family::V6, 9), |asked| {
            assert_eq!(asked, name);
            Answer::Addresses { v4: V4, v6: V6 }
        });
        prop_assert_eq!(addresses(&reply.unwrap(), 9, &name, Family::V6), Ok(vec![V6.into()]));
    }
}
