use crate::agent::Level;
use crate::agent::{AgentState, Desired, Observed, Verb, apply_observed, apply_verb};
use crate::evidence::{Claim, Control, Drift, Evidence, State, claim, drift, missing, with_probe};
use crate::probe::{ATTEMPTS, Attempt, Outcome, ProbeUser, Tried, attempts_of};
use crate::{AgentId, ByteSize, Name, Resources, Span};
use proptest::prelude::*;

#[test]
fn id_goes_round_and_sorts_by_time() {
    let (first, second) = (AgentId::new(), AgentId::new());
    assert_eq!(first.to_string().parse(), Ok(first));
    assert_eq!(AgentId::from_base32(&first.base32()), Ok(first));
    assert!(first.to_string() < second.to_string());
}

#[test]
fn id_of_the_specification() {
    // The TypeID specification's own example: valid.yml, `uuidv7`.
    let text = "01h455vb4pex5vsknk084sn02q";
    let id = AgentId::from_base32(text).unwrap();
    assert_eq!(id.base32(), text);
}

#[test]
fn id_refuses() {
    for text in [
        "",
        "agt_",
        "acc_01h455vb4pex5vsknk084sn02q",
        "agt_81h455vb4pex5vsknk084sn02q",
        "agt_01h455vb4pex5vsknk084sn02",
    ] {
        assert!(text.parse::<AgentId>().is_err(), "{text}");
    }
}

#[test]
fn names() {
    for good in ["a", "worker-1", &"a".repeat(40)] {
        assert!(good.parse::<Name>().is_ok(), "{good}");
    }
    for bad in ["", "A", "1a", "-a", "a_b", "a\n", "ä", &"a".repeat(41)] {
        assert!(bad.parse::<Name>().is_err(), "{bad:?}");
    }
}

#[test]
fn sizes() {
    let check = |text: &str, expected: Option<u64>| {
        assert_eq!(text.parse::<ByteSize>().ok().map(|size| size.0), expected, "{text}");
    };
    check("1", Some(1));
    check("1.5KiB", Some(1536));
    check("2g", Some(2 << 30));
    check("1 MiB", Some(1 << 20));
    check("-1", None);
    check("1e9", None);
    check("", None);
    check("9999999999TiB", None);
}

#[test]
fn resources_are_bounded() {
    let check = |resources: Resources, field: Option<&str>| {
        assert_eq!(resources.validate().err().map(|error| error.field), field);
    };
    let default = Resources::default();
    check(default, None);
    check(Resources { cpus: f64::NAN, ..default }, Some("resources.cpus"));
    check(Resources { cpus: -1.0, ..default }, Some("resources.cpus"));
    check(Resources { memory: ByteSize(1), ..default }, Some("resources.memory"));
    check(Resources { pids: 0, ..default }, Some("resources.pids"));
    check(Resources { disk: ByteSize(u64::MAX), ..default }, Some("resources.disk"));
}

#[test]
fn a_life() {
    let mut state = AgentState::Provisioning;
    let mut desired = Desired::Running;
    state = apply_observed(state, desired, Observed::Running);
    assert_eq!(state, AgentState::Running);
    for (verb, during, observed, after) in [
        (Verb::Pause, AgentState::Running, Observed::Paused, AgentState::Paused),
        (Verb::Resume, AgentState::Paused, Observed::Running, AgentState::Running),
        (Verb::Stop, AgentState::Stopping, Observed::Stopped, AgentState::Stopped),
        (Verb::Start, AgentState::Starting, Observed::Running, AgentState::Running),
        (Verb::Destroy, AgentState::Destroying, Observed::Destroyed, AgentState::Destroyed),
    ] {
        (state, desired) = apply_verb(state, verb).unwrap();
        assert_eq!(state, during);
        state = apply_observed(state, desired, observed);
        assert_eq!(state, after);
    }
    for verb in [Verb::Pause, Verb::Resume, Verb::Stop, Verb::Start] {
        assert!(apply_verb(state, verb).is_err());
    }
}

fn states() -> impl Strategy<Value = AgentState> {
    (0..AgentState::ALL.len()).prop_map(|index| AgentState::ALL[index])
}

fn desires() -> impl Strategy<Value = Desired> {
    prop_oneof![
        Just(Desired::Running),
        Just(Desired::Paused),
        Just(Desired::Stopped),
        Just(Desired::Destroyed)
    ]
}

fn sights() -> impl Strategy<Value = Observed> {
    prop_oneof![
        Just(Observed::Running),
        Just(Observed::Paused),
        Just(Observed::Stopped),
        Just(Observed::Failed),
        Just(Observed::Destroyed)
    ]
}

proptest! {
    #[test]
    fn the_destroyed_stay_destroyed(desired in desires(), observed in sights()) {
        prop_assert_eq!(apply_observed(AgentState::Destroyed, desired, observed), AgentState::Destroyed);
    }

    #[test]
    fn only_a_tombstone_destroys(state in states(), observed in sights(), desired in desires()) {
        let next = apply_observed(state, desired, observed);
        if next == AgentState::Destroyed && state != AgentState::Destroyed {
            prop_assert_eq!(desired, Desired::Destroyed);
        }
    }

    #[test]
    fn seconds_go_round(seconds in 0u64..1 << 52) {
        prop_assert_eq!(Span(seconds).to_string().parse(), Ok(Span(seconds)));
        prop_assert_eq!(ByteSize(seconds).to_string().parse(), Ok(ByteSize(seconds)));
    }

    /// Whatever is known, knowing less of any control never raises the claim: neither a line that is gone, nor a
    /// state that is worse, nor a probe that found more.
    #[test]
    fn less_evidence_never_raises_a_claim(
        level in proptest::sample::select(&crate::agent::Level::ALL[..]),
        states in proptest::collection::vec(0u8..8, 24),
        drop in any::<u32>(),
        outcomes in proptest::collection::vec(0u8..8, ATTEMPTS.len()),
    ) {
        let full: Vec<Evidence> = Control::of(level)
            .iter()
            .copied()
            .chain([Control::KernelBoundary])
            .zip(&states)
            // Mostly good, or there would never be a claim.
            .map(|(control, state)| Evidence { control, state: STATES[usize::from(*state).min(3)], detail: String::new() })
            .collect();
        let gone = |index: usize| drop >> index & 1 == 1;
        let fewer: Vec<Evidence> =
            full.iter().enumerate().filter(|(index, _)| !gone(*index)).map(|(_, found)| found.clone()).collect();
        prop_assert!(claim(level, &fewer) <= claim(level, &full));
        let worse: Vec<Evidence> = full
            .iter()
            .enumerate()
            .map(|(index, found)| if gone(index) { Evidence { state: State::Missing, ..found.clone() } } else { found.clone() })
            .collect();
        prop_assert!(claim(level, &worse) <= claim(level, &full));
        let tried: Vec<Tried> = ATTEMPTS
            .iter()
            .zip(&outcomes)
            .map(|(attempt, outcome)| Tried {
                id: attempt.id.to_owned(),
                user: ProbeUser::Root,
                outcome: OUTCOMES[usize::from(*outcome).min(3)],
                detail: String::new(),
            })
            .collect();
        prop_assert!(claim(level, &with_probe(full.clone(), &tried, &[])) <= claim(level, &full));
    }
}

const STATES: [State; 4] = [State::Missing, State::Unsupported, State::Probed, State::Observed];
const OUTCOMES: [Outcome; 4] = [Outcome::Broken, Outcome::Unclear, Outcome::Unsupported, Outcome::Held];

fn all_of(level: Level, state: State) -> Vec<Evidence> {
    let of_it = Control::of(level).iter();
    of_it.map(|&control| Evidence { control, state, detail: String::new() }).collect()
}

#[test]
fn a_full_set_is_what_the_level_claims() {
    let claims = [Claim::Workspace, Claim::Process, Claim::Container];
    for (level, full) in Level::ALL.into_iter().zip(claims) {
        let all = all_of(level, State::Observed);
        assert_eq!(claim(level, &all), full);
        for index in 0..all.len() {
            let mut less = all.clone();
            let gone = less.remove(index);
            assert_eq!(claim(level, &less), Claim::None, "without {:?}", gone.control);
            // Only what comes on top of other controls may be a kernel's to lack.
            let lacking = Evidence { state: State::Unsupported, ..gone.clone() };
            less.push(lacking);
            let expected = if gone.control.is_optional() { full } else { Claim::None };
            assert_eq!(claim(level, &less), expected, "with {:?} unsupported", gone.control);
            // Contradicting evidence counts against it.
            let mut both = all.clone();
            both.push(Evidence { state: State::Missing, ..gone });
            assert_eq!(claim(level, &both), Claim::None);
        }
    }
    // What is claimed of a weaker level says nothing of a sandbox.
    assert!(
        !Claim::Process.to_string().contains("sandbox") && !Claim::Workspace.to_string().contains("sandbox")
    );
}

#[test]
fn what_is_missing_is_named() {
    let level = Level::Container;
    assert_eq!(missing(level, &all_of(level, State::Probed)), []);
    let names =
        |evidence: &[Evidence]| missing(level, evidence).iter().map(|it| it.control).collect::<Vec<_>>();
    assert_eq!(names(&[]), Control::CONTAINER);
    let mut all = all_of(level, State::Observed);
    all[8].state = State::Missing;
    all.remove(3);
    assert_eq!(names(&all), [Control::NetworkNamespace, Control::Seccomp]);
}

#[test]
fn a_kernel_of_its_own_excuses_one_control() {
    let level = Level::Container;
    let with = |init: State, kernel: Option<State>| {
        let mut all = all_of(level, State::Observed);
        all.iter_mut().find(|found| found.control == Control::InitProtection).unwrap().state = init;
        let kernel =
            kernel.map(|state| Evidence { control: Control::KernelBoundary, state, detail: String::new() });
        all.extend(kernel);
        claim(level, &all)
    };
    for (init, kernel, expected) in [
        (State::Observed, None, Claim::Container),
        (State::Unsupported, None, Claim::None),
        (State::Unsupported, Some(State::Observed), Claim::Container),
        (State::Missing, Some(State::Observed), Claim::None),
        (State::Unsupported, Some(State::Missing), Claim::None),
        (State::Observed, Some(State::Missing), Claim::Container),
    ] {
        assert_eq!(with(init, kernel), expected, "{init:?}, {kernel:?}");
    }
}

#[test]
fn drift_is_what_a_claim_could_differ_by() {
    let level = Level::Container;
    let all = all_of(level, State::Observed);
    assert_eq!(drift(&all, &all), []);
    assert_eq!(drift(&all, &all_of(level, State::Probed)), []);
    assert_eq!(drift(&[], &all), [], "the first look");
    let mut fallen = all.clone();
    fallen[2].state = State::Missing;
    let fell = Drift {
        control: Control::MountNamespace,
        before: State::Observed,
        after: State::Missing,
        detail: String::new(),
    };
    assert_eq!(drift(&all, &fallen), std::slice::from_ref(&fell));
    let back = Drift { before: State::Missing, after: State::Observed, ..fell.clone() };
    assert_eq!(drift(&fallen, &all), [back]);
    fallen.remove(2);
    let unseen = drift(&all, &fallen);
    assert_eq!((unseen.len(), unseen[0].control, unseen[0].after), (1, fell.control, State::Missing));
    // A control that a newer node knows, and that is not in force.
    let newer = Evidence { state: State::Missing, ..all[2].clone() };
    let news = drift(&fallen, &[fallen.clone(), vec![newer]].concat());
    assert_eq!((news.len(), news[0].after), (1, State::Missing));
}

/// The documents say what is demanded in the words of the API, one row for each control and no others.
#[test]
fn every_control_is_documented() {
    let documents = [
        include_str!("../../../docs/levels/workspace.md"),
        include_str!("../../../docs/levels/process.md"),
        include_str!("../../../docs/levels/container.md"),
    ];
    for (level, document) in Level::ALL.into_iter().zip(documents) {
        let row = |control: &Control| {
            let name = serde_json::to_value(control).unwrap().as_str().unwrap().replace('_', " ");
            format!("| {name} | {} |\n", control.expected(level))
        };
        let rows: String = Control::of(level).iter().map(row).collect();
        let table = format!("## Controls\n\n| control | what is demanded |\n| --- | --- |\n{rows}");
        assert!(document.contains(&table), "the document of {level:?} lacks or contradicts:\n{table}");
    }
}

#[test]
fn a_probe_shows_controls_or_takes_the_claim() {
    for level in [Level::Process, Level::Container] {
        a_probe_counts_at(level);
    }
}

fn a_probe_counts_at(level: Level) {
    let attempts: Vec<&Attempt> = attempts_of(level).collect();
    let tried = |outcome| {
        let tried = attempts.iter().map(|attempt| Tried {
            id: attempt.id.to_owned(),
            user: ProbeUser::Agent,
            outcome,
            detail: "why".to_owned(),
        });
        tried.collect::<Vec<_>>()
    };
    let held = with_probe(all_of(level, State::Observed), &tried(Outcome::Held), &[]);
    let probed: Vec<Control> =
        held.iter().filter(|found| found.state == State::Probed).map(|found| found.control).collect();
    // The size of the disk is only looked at: filling it would harm the agent.
    let all = Control::of(level).len() - 1;
    assert!(probed.len() == all && !probed.contains(&Control::DiskLimit), "{probed:?}");
    assert_ne!(claim(level, &held), Claim::None);
    // Around an older init there may be less than around a newer probe.
    let older = with_probe(all_of(level, State::Observed), &tried(Outcome::Held), &Control::BY_INIT);
    let told = |found: &&Evidence| found.state == State::Observed && found.detail.contains("older init");
    let told: Vec<Control> = older.iter().filter(told).map(|found| found.control).collect();
    assert_eq!(told, Control::BY_INIT);
    assert_eq!(older.iter().filter(|found| found.state == State::Probed).count(), all - told.len());
    let unclear = with_probe(all_of(level, State::Observed), &tried(Outcome::Unclear), &[]);
    assert_eq!(unclear, all_of(level, State::Observed));
    for index in 0..attempts.len() {
        let mut tried = tried(Outcome::Held);
        tried[index].outcome = Outcome::Broken;
        let broken = with_probe(all_of(level, State::Observed), &tried, &[]);
        let missing: Vec<&Evidence> = broken.iter().filter(|found| found.state == State::Missing).collect();
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].control, attempts[index].control);
        assert!(missing[0].detail.contains(attempts[index].id), "{}", missing[0].detail);
        assert_eq!(claim(level, &broken), Claim::None);
    }
}

#[test]
fn attempts_have_names_and_sources() {
    let mut names: Vec<&str> = ATTEMPTS.iter().map(|attempt| attempt.id).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ATTEMPTS.len());
    assert!(ATTEMPTS.len() >= 80);
    assert!(
        ATTEMPTS.iter().all(|attempt| attempt.source.starts_with("https://") && !attempt.proves.is_empty())
    );
}

#[test]
fn evidence_of_old_is_still_read() {
    let read = |json: &str| serde_json::from_str::<Evidence>(json).unwrap().state;
    assert_eq!(read(r#"{"control": "seccomp", "observed": true, "detail": ""}"#), State::Observed);
    assert_eq!(read(r#"{"control": "seccomp", "observed": false, "detail": ""}"#), State::Missing);
    assert_eq!(read(r#"{"control": "seccomp", "state": "probed", "detail": ""}"#), State::Probed);
}

#[test]
fn a_crowd_puts_out_who_stands_longest() {
    let crowd = crate::crowd::Crowd::new(2);
    let (first, out) = crowd.enter("first").unwrap();
    assert_eq!(out, None);
    let (_second, out) = crowd.enter("second").unwrap();
    assert_eq!(out, None);
    // Who sits stays, and stands anew when it is done.
    let seat = first.sit();
    let (third, out) = crowd.enter("third").unwrap();
    assert_eq!(out, Some("second"));
    drop(seat);
    let (fourth, out) = crowd.enter("fourth").unwrap();
    assert_eq!(out, Some("third"));
    // One that was put out gives no place back and takes none, whatever it still does.
    drop(third.sit());
    drop(third);
    let seats = (first.sit(), fourth.sit());
    assert!(crowd.enter("fifth").is_none(), "everybody sits");
    drop((seats, first));
    let (_sixth, out) = crowd.enter("sixth").unwrap();
    assert_eq!(out, None);
}

#[test]
fn secrets_show_themselves_to_nobody() {
    use crate::secret::SecretValue;
    let value = SecretValue::new("sk-test-0123456789abcdef".to_owned());
    assert_eq!(format!("{value:?}"), "SecretValue");
    assert_eq!(value.hint(), "••••cdef");
    assert_eq!(serde_json::to_string(&value).unwrap(), "\"sk-test-0123456789abcdef\"");
    for (text, hint) in [("short", "••••"), ("fifteen-letters", "••••"), ("0123456789abcdeüü", "••••")]
    {
        assert_eq!(SecretValue::new(text.to_owned()).hint(), hint);
    }
    for (text, fault) in [("", true), ("a\0b", true), ("a\nb", false)] {
        assert_eq!(SecretValue::new(text.to_owned()).fault().is_some(), fault, "{text:?}");
    }
    let full = "x".repeat(crate::secret::MAX_VALUE);
    assert_eq!(SecretValue::new(full.clone()).fault(), None);
    assert!(SecretValue::new(full + "x").fault().is_some());
}

#[test]
fn uses_of_secrets() {
    use crate::secret::SecretUse;
    let check = |text: &str, field: Option<&str>| {
        let given: SecretUse = serde_json::from_str(text).unwrap();
        assert_eq!(given.fault().map(|(field, ..)| field), field, "{text}");
    };
    check(r#"{"secret": "a", "env": "KEY_1"}"#, None);
    check(r#"{"secret": "a", "file": "key.pem"}"#, None);
    check(r#"{"secret": "a"}"#, Some("env"));
    check(r#"{"secret": "a", "env": "A", "file": "a"}"#, Some("file"));
    for name in ["1A", "A-B", "", "A=B", "ü"] {
        check(&format!(r#"{{"secret": "a", "env": "{name}"}}"#), Some("env"));
    }
    for name in ["..", ".a", "a/b", "", "../a"] {
        check(&format!(r#"{{"secret": "a", "file": "{name}"}}"#), Some("file"));
    }
}
