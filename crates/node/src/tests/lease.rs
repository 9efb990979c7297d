use crate::lease::{LeaseError, Leases, Owner};
use model::{AccountId, AgentId};
use proptest::prelude::*;
use sandbox::UidRange;
use std::collections::BTreeMap;

const FIRST: u32 = 0x7000_0000;

#[test]
fn ranges_are_held_once_and_used_again() {
    let mut leases = Leases::new(FIRST, 2, 2);
    let [a, b, c] = [AgentId::new(), AgentId::new(), AgentId::new()];
    assert_eq!(leases.take(a, Owner::Agent(a)), Ok(UidRange { base: FIRST }));
    assert_eq!(leases.take(a, Owner::Agent(a)), Ok(UidRange { base: FIRST }), "asking again changes nothing");
    assert_eq!(leases.take(b, Owner::Agent(b)), Ok(UidRange { base: FIRST + 65_536 }));
    assert_eq!(leases.take(c, Owner::Agent(c)), Err(LeaseError::Full(2)));
    leases.free(a);
    assert_eq!(leases.take(c, Owner::Agent(c)), Ok(UidRange { base: FIRST }));
}

#[test]
fn restored_ranges_are_respected_wherever_they_lie() {
    let mut leases = Leases::new(FIRST, 3, 10);
    let [a, b, c] = [AgentId::new(), AgentId::new(), AgentId::new()];
    // Made when `uid_first` was another: it covers the end of our first range and the start of our second.
    let odd = UidRange { base: FIRST + 1000 };
    assert_eq!(leases.restore(a, Owner::Agent(a), odd), Ok(()));
    assert_eq!(leases.restore(a, Owner::Agent(a), odd), Ok(()), "restoring again changes nothing");
    assert!(matches!(
        leases.restore(b, Owner::Agent(b), UidRange { base: FIRST }),
        Err(LeaseError::Twice { .. })
    ));
    assert_eq!(leases.take(b, Owner::Agent(b)), Ok(UidRange { base: FIRST + 2 * 65_536 }));
    assert_eq!(leases.take(c, Owner::Agent(c)), Err(LeaseError::Exhausted(3)));
}

#[test]
fn blanks_leave_a_range_for_each_free_slot() {
    let mut leases = Leases::new(FIRST, 4, 2);
    let [a, b] = [AgentId::new(), AgentId::new()];
    let spare = leases.take_spare().unwrap();
    assert!(leases.take_spare().is_some());
    assert_eq!(leases.take_spare(), None, "two slots, two ranges");
    assert_eq!(leases.hand_over(spare, a), Ok(()));
    assert!(leases.take_spare().is_some(), "one slot, two ranges");
    assert_eq!(leases.take_spare(), None);
    assert!(leases.take(b, Owner::Agent(b)).is_ok());
}

#[test]
fn an_account_keeps_its_range_while_a_blank_has_it() {
    let mut leases = Leases::new(FIRST, 4, 2);
    let [a, b, c] = [AgentId::new(), AgentId::new(), AgentId::new()];
    let [ours, theirs] = [Owner::Account(AccountId::new()), Owner::Account(AccountId::new())];
    assert_eq!(leases.share(FIRST), None, "nobody has it");
    let range = leases.take(a, ours).unwrap();
    assert_eq!(leases.share(range.base), Some(range));
    leases.free(a);
    assert_ne!(leases.take(b, theirs).unwrap(), range, "a blank goes by these ids");
    assert_eq!(leases.take(c, ours), Ok(range), "it is its account's");
    assert_eq!(leases.hand_over(range, c), Ok(()));
    leases.free(c);
    assert_eq!(leases.take(a, Owner::Agent(a)), Ok(range), "nobody has it any more");
    assert_eq!(leases.share(range.base), None, "it is one agent's");
}

#[test]
fn ranges_that_blanks_may_be_left_with_are_counted() {
    let mut leases = Leases::new(FIRST, 3, 2);
    let [a, b] = [AgentId::new(), AgentId::new()];
    let account = Owner::Account(AccountId::new());
    let range = leases.take(a, account).unwrap();
    assert!(leases.share(range.base).is_some());
    assert!(leases.share(range.base).is_some(), "the same once more");
    assert_eq!(leases.take_spare(), None, "two slots and three ranges, of which blanks have one");
    leases.free(a);
    assert!(leases.take(a, Owner::Agent(a)).is_ok());
    assert!(leases.take(b, Owner::Agent(b)).is_ok());
    leases.free_blank(range);
    leases.free(b);
    assert_eq!(leases.take_spare(), None, "one of the two blanks is still there");
    leases.free_blank(range);
    assert!(leases.take_spare().is_some());
}

proptest! {
    #[test]
    fn no_id_is_ever_held_twice(moves in proptest::collection::vec((0usize..12, any::<bool>()), 0..200)) {
        let agents: Vec<AgentId> = (0..12).map(|_| AgentId::new()).collect();
        let mut leases = Leases::new(FIRST, 8, 10);
        let mut held: BTreeMap<AgentId, UidRange> = BTreeMap::new();
        for (index, take) in moves {
            let agent = agents[index];
            if take {
                if let Ok(range) = leases.take(agent, Owner::Agent(agent)) {
                    held.insert(agent, range);
                } else {
                    prop_assert!(held.len() >= 8);
                }
            } else {
                leases.free(agent);
                held.remove(&agent);
            }
            let mut bases: Vec<u32> = held.values().map(|range| range.base).collect();
            bases.sort_unstable();
            prop_assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= UidRange::COUNT));
        }
    }
}

/// Agents that are one OS user have one range, and it is free when the last of them is gone.
#[test]
fn agents_of_an_account_share_a_range() {
    let mut leases = Leases::new(FIRST, 4, 4);
    let [a, b, c] = [AgentId::new(), AgentId::new(), AgentId::new()];
    let [mine, yours] = [model::AccountId::new(), model::AccountId::new()].map(Owner::Account);
    let first = leases.take(a, mine).unwrap();
    assert_eq!(leases.take(b, mine), Ok(first));
    assert_ne!(leases.take(c, yours), Ok(first));
    leases.free(a);
    assert_ne!(leases.take(a, Owner::Agent(a)), Ok(first), "somebody has it still");
    leases.free(b);
    assert_eq!(leases.take(b, Owner::Agent(b)), Ok(first));
    // As a journal has it, in whatever order.
    let mut leases = Leases::new(FIRST, 4, 4);
    assert_eq!(leases.restore(a, mine, first), Ok(()));
    assert_eq!(leases.restore(b, mine, first), Ok(()));
    assert!(matches!(leases.restore(c, yours, first), Err(LeaseError::Twice { .. })));
}

/// Workspaces whose journal is lost keep their account's range until the last of them is gone, in whatever order control
/// says whose they are.
#[test]
fn strangers_of_one_account_share_a_range() {
    let [a, b, c] = [AgentId::new(), AgentId::new(), AgentId::new()];
    let mine = Owner::Account(model::AccountId::new());
    let range = UidRange { base: FIRST };
    for (first, second) in [(a, b), (b, a)] {
        let mut leases = Leases::new(FIRST, 4, 4);
        assert_eq!(leases.restore(a, Owner::Agent(a), range), Ok(()));
        assert_eq!(leases.restore(b, Owner::Agent(a), range), Ok(()));
        assert_eq!(leases.restore(first, mine, range), Ok(()));
        leases.free(first);
        assert_ne!(leases.take(c, Owner::Agent(c)), Ok(range), "somebody lives there");
        assert_eq!(leases.restore(second, mine, range), Ok(()));
        leases.free(second);
        let [d, e] = [AgentId::new(), AgentId::new()];
        assert_eq!(leases.take(d, Owner::Agent(d)), Ok(range));
        assert_ne!(leases.take(e, Owner::Agent(e)), Ok(range));
    }
}
