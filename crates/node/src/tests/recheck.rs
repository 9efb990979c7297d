use crate::recheck::{Changes, phase, unseen};
use model::AgentId;
use model::evidence::{Control, Evidence, State};
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(60);

fn all(state: State) -> Vec<Evidence> {
    Control::CONTAINER.map(|control| Evidence { control, state, detail: String::new() }).to_vec()
}

fn without(control: Control) -> Vec<Evidence> {
    let mut evidence = all(State::Observed);
    evidence
        .iter_mut()
        .filter(|found| found.control == control)
        .for_each(|found| found.state = State::Missing);
    evidence
}

#[test]
fn looks_are_spread_over_the_period() {
    let mut tenths = [0; 10];
    for _ in 0..1000 {
        let phase = phase(AgentId::new(), PERIOD);
        assert!(phase < PERIOD);
        tenths[(phase.as_millis() * 10 / PERIOD.as_millis()) as usize] += 1;
    }
    assert!(tenths.iter().all(|count| (50..=150).contains(count)), "{tenths:?}");
    let agent = AgentId::new();
    assert_eq!(phase(agent, PERIOD), phase(agent, PERIOD));
}

#[test]
fn what_comes_and_goes_stays_fallen_in_the_end() {
    let (mut changes, start) = (Changes::default(), Instant::now());
    let (whole, fallen) = (all(State::Observed), without(Control::Seccomp));
    let mut known = whole.clone();
    let mut told = 0;
    for look in 0..59u64 {
        let seen = if look % 2 == 0 { fallen.clone() } else { whole.clone() };
        let now = changes.take(&known, seen, start + PERIOD * look as u32);
        told += usize::from(now != known);
        known = now;
    }
    assert!((10..=11).contains(&told), "{told}");
    assert_eq!(known, fallen);
    // Another that falls is told all the same, and neither comes back.
    let both: Vec<Evidence> = fallen
        .iter()
        .map(|found| {
            if found.control == Control::Devices {
                Evidence { state: State::Missing, ..found.clone() }
            } else {
                found.clone()
            }
        })
        .collect();
    let at = start + Duration::from_secs(3590);
    known = changes.take(&known, without(Control::Devices), at);
    assert_eq!(known, both);
    known = changes.take(&known, whole.clone(), at);
    assert_eq!(known, both);
    // Until the hour is over.
    assert_eq!(changes.take(&known, whole.clone(), start + Duration::from_secs(3601)), whole);
}

#[test]
fn nothing_new_uses_nothing_up() {
    let (mut changes, start, whole) = (Changes::default(), Instant::now(), all(State::Observed));
    for look in 0..100 {
        assert_eq!(changes.take(&whole, whole.clone(), start + PERIOD * look), whole);
    }
    assert_eq!(
        changes.take(&whole, unseen(&whole), start),
        all(State::Missing)
            .into_iter()
            .map(|found| Evidence { detail: unseen(&whole)[0].detail.clone(), ..found })
            .collect::<Vec<_>>()
    );
}
