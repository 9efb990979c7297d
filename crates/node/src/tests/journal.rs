use super::wish;
use crate::journal::{Journal, JournalError};
use crate::local::{Local, Motion, Phase};
use model::Desired;
use sandbox::UidRange;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn record(phase: Phase) -> Local {
    let mut local = Local::new(wish(Desired::Running, 7), 2);
    local.phase = phase;
    local.lease = Some(UidRange { base: 0x7000_0000 });
    local.last_activity = Some(time::OffsetDateTime::UNIX_EPOCH);
    local
}

#[test]
fn records_go_round() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    let kept = record(Phase::Live(Motion::Frozen));
    let removed = record(Phase::Destroyed);
    journal.save(&kept).unwrap();
    journal.save(&removed).unwrap();
    journal.remove(removed.desired.spec.id).unwrap();
    journal.remove(removed.desired.spec.id).unwrap();
    drop(journal);
    let records = Journal::open(directory.path()).unwrap().load().unwrap();
    assert_eq!(records.into_values().collect::<Vec<_>>(), [kept]);
}

#[test]
fn what_a_crash_tore_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let whole = record(Phase::Launching);
    Journal::open(directory.path()).unwrap().save(&whole).unwrap();
    let agents = directory.path().join("agents");
    let name = format!("{}.json", whole.desired.spec.id.base32());
    let bytes = fs::read(agents.join(&name)).unwrap();
    // The next record was being written when the node died: at every length the old one stands.
    for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        let torn = agents.join(format!("{name}.new"));
        fs::write(&torn, &bytes[..length]).unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        assert!(!torn.exists());
        assert_eq!(journal.load().unwrap().into_values().collect::<Vec<_>>(), std::slice::from_ref(&whole));
    }
}

#[test]
fn what_a_power_cut_left_of_a_record_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let (cut, whole) = (record(Phase::Launching), record(Phase::Idle));
    Journal::open(directory.path()).unwrap().save(&whole).unwrap();
    let bytes = serde_json::to_vec(&cut).unwrap();
    let (begun, rest) = bytes.split_at(bytes.len() / 2);
    // A record of several blocks may be there in part.
    let parts = [
        begun.to_vec(),
        [begun, &vec![0; rest.len()][..]].concat(),
        [&vec![0; begun.len()][..], rest].concat(),
    ];
    for left in [Vec::new(), vec![0; 700]].into_iter().chain(parts) {
        let path = directory.path().join("agents").join(format!("{}.json", cut.desired.spec.id.base32()));
        fs::write(&path, left).unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        assert_eq!(journal.load().unwrap().into_values().collect::<Vec<_>>(), std::slice::from_ref(&whole));
        assert!(!path.exists());
    }
}

#[test]
fn a_damaged_record_is_named_and_never_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    let record = record(Phase::Idle);
    journal.save(&record).unwrap();
    let path = directory.path().join("agents").join(format!("{}.json", record.desired.spec.id.base32()));
    fs::write(&path, b"{}").unwrap();
    let error = journal.load().unwrap_err();
    assert!(matches!(&error, JournalError::Damaged { path: named, .. } if *named == path), "{error}");
}

#[test]
fn only_one_node_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    assert!(matches!(Journal::open(directory.path()), Err(JournalError::Locked(_))));
    drop(journal);
    assert!(Journal::open(directory.path()).is_ok());
}

#[test]
fn files_are_for_root_alone() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(&directory.path().join("node")).unwrap();
    let record = record(Phase::Idle);
    journal.save(&record).unwrap();
    crate::key::NodeKey::load_or_make(journal.root()).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(journal.root()), 0o700);
    assert_eq!(mode(&journal.root().join("key.pem")), 0o600);
    assert_eq!(mode(&journal.root().join("lock")), 0o600);
    let name = format!("agents/{}.json", record.desired.spec.id.base32());
    assert_eq!(mode(&journal.root().join(name)), 0o600);
}
