//! Questions of agents, and replies of a resolver that somebody else speaks through.

#![no_main]
#![allow(dead_code)]

// The gate as a whole brings a network stack that this has no use for.
#[path = "../../crates/gate/src/egress/dns.rs"]
mod dns;
mod seeds;

use dns::{Answer, Family, addresses, answer, query};
use libfuzzer_sys::fuzz_target;
use std::net::{Ipv4Addr, Ipv6Addr};

const NAME: &str = "www.example.com";
const ID: u16 = 0x1234;

/// A reply of records whose data follow their types.
fn reply(family: Family, records: &[(u8, &[u8])]) -> Vec<u8> {
    let mut reply = query(NAME, family, ID);
    reply[2] = 0x81;
    reply[7] = records.len() as u8;
    for (kind, data) in records {
        // The name of the question.
        reply.extend([0xc0, 12, 0, *kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        reply.extend(*data);
    }
    reply
}

fuzz_target!(
    init: seeds::plant("dns", [
        query(NAME, Family::V4, ID),
        // With EDNS.
        {
            let mut question = query(NAME, Family::V6, ID);
            question[11] = 1;
            question.extend(b"\0\0\x29\x10\0\0\0\x80\0\0\0");
            question
        },
        reply(Family::V4, &[(1, &[192, 0, 2, 1])]),
        reply(Family::V4, &[(5, b"\x01a\x07example\0"), (5, b"\xc0\x10"), (1, &[192, 0, 2, 1])]),
        reply(Family::V6, &[(28, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])]),
        reply(Family::V4, &[]),
    ]),
    |data: &[u8]| {
        let answered = answer(data, |name| {
            assert_eq!(model::policy::name(name).as_deref(), Some(name));
            match name.len() % 3 {
                0 => Answer::Refused,
                1 => Answer::Failed,
                _ => Answer::Addresses { v4: Ipv4Addr::new(198, 18, 0, 1), v6: Ipv6Addr::LOCALHOST },
            }
        });
        if let Some(answered) = answered {
            assert!(answered.len() <= 512 && answered[..2] == data[..2] && answered[2] & 0x80 != 0);
            // Nobody answers an answer.
            assert_eq!(answer(&answered, |_| panic!("an answer was taken for a question")), None);
        }
        for family in [Family::V4, Family::V6] {
            if let Ok(found) = addresses(data, ID, NAME, family) {
                assert!(found.len() <= 32 && found.iter().all(|address| address.is_ipv4() == (family == Family::V4)));
            }
        }
    }
);
