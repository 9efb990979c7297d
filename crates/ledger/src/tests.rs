//! Chains that were tampered with, each in one way.

use super::*;
use aws_lc_rs::signature::Ed25519KeyPair;

fn record(number: u64) -> Record {
    Record {
        id: format!("evt_{number}"),
        account: Some("acc_1".to_owned()),
        at: 1_800_000_000_000,
        kind: "agent.created".to_owned(),
        actor: "usr_1".to_owned(),
        subject: "agt_1".to_owned(),
        source: Some("192.0.2.1".to_owned()),
        request: None,
        detail: format!("{{\"number\":{number}}}"),
    }
}

fn chain(installation: &str, records: impl IntoIterator<Item = Record>) -> Vec<Entry> {
    let mut hash = genesis(installation, "acc_1");
    (1..)
        .zip(records)
        .map(|(seq, record)| {
            hash = link(&hash, &record.hash());
            Entry { seq, hash, event: record.id.clone(), record: Some(record) }
        })
        .collect()
}

fn signer() -> Signer {
    let pair = Ed25519KeyPair::generate().unwrap();
    Signer::new(pair.to_pkcs8v1().unwrap().as_ref()).unwrap()
}

fn checkpoint(entry: &Entry) -> Checkpoint {
    let (installation, chain) = ("inst".to_owned(), "acc_1".to_owned());
    Checkpoint { installation, chain, seq: entry.seq, hash: entry.hash, at: 1 }
}

fn follow(entries: &[Entry], receipts: &[Checkpoint]) -> Result<u64, Fault> {
    let mut walk = Walk::new("inst", "acc_1");
    receipts.iter().try_for_each(|receipt| walk.expect(receipt))?;
    entries.iter().try_for_each(|entry| walk.step(entry))?;
    walk.end()
}

#[test]
fn a_chain_that_nobody_touched_is_whole() {
    let entries = chain("inst", (1..=9).map(record));
    assert_eq!(follow(&entries, &[]), Ok(9));
    assert_eq!(follow(&entries, &[checkpoint(&entries[3]), checkpoint(&entries[8])]), Ok(9));
    assert_eq!(follow(&[], &[]), Ok(0));
}

#[test]
fn a_receipt_of_a_chain_without_events_holds_for_ever() {
    let entries = chain("inst", (1..4).map(record));
    let begin = |hash| Checkpoint { seq: 0, hash, ..checkpoint(&entries[0]) };
    let first = entries[0].clone();
    let genesis = genesis("inst", "acc_1");
    assert_eq!(follow(&entries, &[begin(genesis)]), Ok(3));
    assert_eq!(follow(&entries, &[begin(first.hash)]), Err(Fault::Rewritten { after: 0, seq: 0 }));
}

/// Each field, and what stands between two of them.
#[test]
fn whatever_of_an_event_is_changed_is_seen() {
    let changes: [fn(&mut Record); 11] = [
        |it| it.id.push('x'),
        |it| it.account = None,
        |it| it.at += 1,
        |it| it.kind.push('x'),
        |it| it.actor.push('x'),
        |it| it.subject.push('x'),
        |it| it.source = None,
        |it| it.request = Some(String::new()),
        |it| it.detail.push(' '),
        |it| {
            let first = it.subject.remove(0);
            it.actor.push(first);
        },
        |it| (it.source, it.request) = (None, it.source.take()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut entries = chain("inst", (1..=9).map(record));
        change(entries[4].record.as_mut().unwrap());
        let fault = Fault::Changed { seq: 5, event: "evt_5".to_owned() };
        assert_eq!(follow(&entries, &[]), Err(fault), "change {number}");
    }
}

#[test]
fn what_was_removed_is_named() {
    let entries = chain("inst", (1..=9).map(record));
    let mut gone = entries.clone();
    gone[4].record = None;
    assert_eq!(follow(&gone, &[]), Err(Fault::Removed { seq: 5, event: "evt_5".to_owned() }));
    gone.remove(4);
    assert_eq!(follow(&gone, &[]), Err(Fault::Missing { seq: 5 }));
    let mut swapped = entries.clone();
    swapped.swap(4, 5);
    assert_eq!(follow(&swapped, &[]), Err(Fault::Missing { seq: 5 }));
    // Without a witness, an end that is missing is no fault.
    assert_eq!(follow(&entries[..6], &[]), Ok(6));
    let cut = Fault::CutOff { end: 6, seq: 9 };
    assert_eq!(follow(&entries[..6], &[checkpoint(&entries[8])]), Err(cut));
}

#[test]
fn a_chain_that_was_written_anew_is_seen_by_who_has_a_receipt() {
    let before = chain("inst", (1..=9).map(record));
    let anew = chain("inst", (1..=9).map(|number| record(if number == 5 { 77 } else { number })));
    assert_eq!(follow(&anew, &[]), Ok(9));
    let receipts = [checkpoint(&before[2]), checkpoint(&before[6])];
    assert_eq!(follow(&anew, &receipts), Err(Fault::Rewritten { after: 3, seq: 7 }));
    let other = Checkpoint { installation: "other".to_owned(), ..checkpoint(&before[2]) };
    assert!(matches!(follow(&before, &[other]), Err(Fault::Foreign { .. })));
    assert!(matches!(follow(&chain("other", (1..=9).map(record)), &[]), Err(Fault::Changed { seq: 1, .. })));
}

#[test]
fn receipts_and_proofs_hold_only_as_they_were_signed() {
    let (entries, signer) = (chain("inst", (1..=9).map(record)), signer());
    let receipt = signer.sign(checkpoint(&entries[8]));
    assert_eq!(receipt.verify(), Ok(()));
    let mut other = receipt.clone();
    other.checkpoint.seq = 8;
    assert_eq!(other.verify(), Err(ReceiptFault::Signature));
    let other = Receipt { key: self::signer().x(), ..receipt.clone() };
    assert_eq!(other.verify(), Err(ReceiptFault::Signature));
    let following = entries[5..].iter().map(|entry| entry.record.as_ref().unwrap().hash()).collect();
    let proof = Proof { seq: 5, record: record(5), previous: entries[3].hash, following, receipt };
    assert_eq!(proof.verify(), Ok(()));
    let changes: [fn(&mut Proof); 5] = [
        |it| it.record.actor.push('x'),
        |it| it.seq = 4,
        |it| it.following.swap(0, 1),
        |it| it.following.truncate(2),
        |it| it.previous = genesis("inst", "acc_1"),
    ];
    for change in changes {
        let mut other = proof.clone();
        change(&mut other);
        assert_eq!(other.verify(), Err(ReceiptFault::Proof));
    }
}

#[test]
fn a_hash_is_read_as_it_is_written() {
    let hash = genesis("inst", "acc_1");
    assert_eq!(hash.to_string().parse(), Ok(hash));
    for wrong in ["", "ab", &"AB".repeat(32), &"0g".repeat(32), &"ab".repeat(33)] {
        assert_eq!(wrong.parse::<Hash>(), Err(NotAHash));
    }
}
