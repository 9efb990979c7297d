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
    let mut kept = record(Phase::Live(Motion::Frozen));
    let agent = kept.desired.spec.id;
    kept.authority = Some(crate::authority::make(agent, time::OffsetDateTime::now_utc()).unwrap());
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

/// Nodes that knew one level said nothing of it, and every agent had an image.
#[test]
fn records_of_a_node_that_knew_one_level_are_read() {
    use model::agent::Level;
    let boundary = serde_json::json!({
        "boundary": model::BoundaryId::new(), "agent": model::AgentId::new(), "pid": 7, "start_time": 8,
        "boot_id": "b", "base_uid": 0x7000_0000, "init_digest": "i", "image_digest": "0a".repeat(32),
        "volume": model::VolumeId::new(), "channel": "/run/x.sock", "landlock_abi": 7,
    });
    let mut record = serde_json::to_value(record(Phase::Live(Motion::Running))).unwrap();
    record["boundary"] = boundary.clone();
    let read: Local = serde_json::from_value(record).unwrap();
    let found = read.boundary.unwrap();
    assert_eq!((found.level, found.image_digest.clone()), (Level::Container, Some("0a".repeat(32))));
    assert_eq!(
        serde_json::to_value(found).unwrap(),
        boundary,
        "and the same is written, for a node that is put back"
    );
    let shape = serde_json::json!({
        "image_digest": "0a", "disk": 1, "memory": 2, "keep_scratch": false, "owner": [1000, 1000],
    });
    let shape: sandbox::Shape = serde_json::from_value(shape).unwrap();
    assert_eq!((shape.level, shape.image_digest.as_deref()), (Level::Container, Some("0a")));
}
