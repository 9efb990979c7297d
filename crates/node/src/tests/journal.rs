use super::wish;
use crate::journal::{Journal, JournalError};
use crate::local::{After, Local, Motion, Phase};
use model::Desired;
use sandbox::UidRange;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

fn record(phase: Phase) -> Local {
    let mut local = Local::new(wish(Desired::Running, 7), 2);
    local.phase = phase;
    local.lease = Some(UidRange { base: 0x7000_0000 });
    local.last_activity = Some(time::OffsetDateTime::UNIX_EPOCH);
    local
}

fn open(directory: &TempDir) -> Journal {
    try_open(directory).unwrap()
}

fn try_open(directory: &TempDir) -> Result<Journal, JournalError> {
    Journal::open(&directory.path().join("node"), &directory.path().join("run"))
}

/// What a new boot has: no file beneath `run`.
fn boot(directory: &TempDir) {
    fs::remove_dir_all(directory.path().join("run")).unwrap();
}

fn on_disk(directory: &TempDir, record: &Local) -> PathBuf {
    directory.path().join(format!("node/agents/{}.json", record.desired.spec.id.base32()))
}

fn in_memory(directory: &TempDir, record: &Local) -> PathBuf {
    directory.path().join(format!("run/journal/{}.json", record.desired.spec.id.base32()))
}

fn all(journal: &Journal) -> Vec<Local> {
    journal.load().unwrap().into_values().collect()
}

#[test]
fn records_go_round() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    let mut kept = record(Phase::Live(Motion::Frozen));
    let agent = kept.desired.spec.id;
    kept.authority = Some(crate::authority::make(agent, time::OffsetDateTime::now_utc()).unwrap());
    let removed = record(Phase::Destroyed);
    journal.save(&kept).unwrap();
    journal.save(&removed).unwrap();
    journal.remove(removed.desired.spec.id).unwrap();
    journal.remove(removed.desired.spec.id).unwrap();
    drop(journal);
    assert_eq!(all(&open(&directory)), std::slice::from_ref(&kept));
    boot(&directory);
    assert_eq!(all(&open(&directory)), [kept]);
}

#[test]
fn what_a_crash_tore_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let whole = record(Phase::Launching);
    open(&directory).save(&whole).unwrap();
    let bytes = fs::read(on_disk(&directory, &whole)).unwrap();
    // The next record was being written when the node died: at every length the old one stands.
    for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        for path in [on_disk(&directory, &whole), in_memory(&directory, &whole)] {
            let torn = path.with_extension("json.new");
            fs::write(&torn, &bytes[..length]).unwrap();
            let journal = open(&directory);
            assert!(!torn.exists());
            assert_eq!(all(&journal), std::slice::from_ref(&whole));
        }
    }
}

#[test]
fn what_a_power_cut_left_of_a_record_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let (cut, whole) = (record(Phase::Launching), record(Phase::Idle));
    open(&directory).save(&whole).unwrap();
    let bytes = serde_json::to_vec(&cut).unwrap();
    let (begun, rest) = bytes.split_at(bytes.len() / 2);
    // A record of several blocks may be there in part.
    let parts = [
        begun.to_vec(),
        [begun, &vec![0; rest.len()][..]].concat(),
        [&vec![0; begun.len()][..], rest].concat(),
    ];
    for left in [Vec::new(), vec![0; 700]].into_iter().chain(parts) {
        let path = on_disk(&directory, &cut);
        fs::write(&path, left).unwrap();
        boot(&directory);
        let journal = open(&directory);
        assert_eq!(all(&journal), std::slice::from_ref(&whole));
        assert!(!path.exists());
    }
}

#[test]
fn a_killed_node_is_found_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut killed = record(Phase::Launching);
    open(&directory).save(&killed).unwrap();
    killed.phase = Phase::Live(Motion::Running);
    // It did not come to writing this one to disk.
    fs::write(in_memory(&directory, &killed), serde_json::to_vec(&killed).unwrap()).unwrap();
    assert_eq!(all(&open(&directory)), std::slice::from_ref(&killed));
    boot(&directory);
    assert_eq!(all(&open(&directory)), [killed], "and it is on disk since");
}

/// What is written behind is what was saved last, however often that was.
#[test]
fn what_changes_often_is_written_as_it_is_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut changing = record(Phase::Launching);
    let journal = open(&directory);
    for epoch in 1..=50 {
        changing.desired.token_epoch = epoch;
        changing.desired.policy_revision = 100 - epoch;
        journal.save(&changing).unwrap();
        assert_eq!(all(&journal), std::slice::from_ref(&changing));
    }
    drop(journal);
    boot(&directory);
    assert_eq!(all(&open(&directory)), [changing]);
}

#[test]
fn an_end_is_on_disk_at_once_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut over = record(Phase::Live(Motion::Running));
    let journal = open(&directory);
    journal.save(&over).unwrap();
    for phase in [Phase::Ending(After::Ended), Phase::Ended, Phase::Destroyed] {
        over.phase = phase;
        journal.save(&over).unwrap();
        let read: Local = serde_json::from_slice(&fs::read(on_disk(&directory, &over)).unwrap()).unwrap();
        assert_eq!(read, over);
    }
    drop(journal);
    boot(&directory);
    assert_eq!(all(&open(&directory)), [over]);
}

/// What lies in memory is of this journal, of this boot, and of no time before another node wrote to disk.
#[test]
fn memory_of_another_time_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let mut newer = record(Phase::Launching);
    let own = |place: &str| directory.path().join(place).join("live.new");
    let earlier = || {
        for place in ["node", "run/journal"] {
            fs::write(own(place), "00000000-0000-4000-8000-000000000000 0123456789abcdef").unwrap();
        }
    };
    let another = || fs::write(own("run/journal"), fs::read_to_string(own("node")).unwrap() + "0").unwrap();
    // A node that knows of no records in memory takes it for a file that was being written.
    let older = || fs::remove_file(own("node")).unwrap();
    for otherwise in [&earlier as &dyn Fn(), &another, &older] {
        let stale = Local { phase: Phase::Launching, ..newer.clone() };
        open(&directory).save(&stale).unwrap();
        newer.phase = Phase::Ended;
        fs::write(on_disk(&directory, &newer), serde_json::to_vec(&newer).unwrap()).unwrap();
        otherwise();
        let journal = open(&directory);
        assert_eq!(all(&journal), std::slice::from_ref(&newer));
        assert!(!in_memory(&directory, &newer).exists());
    }
}

#[test]
fn a_damaged_record_is_named_and_never_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let record = record(Phase::Idle);
    open(&directory).save(&record).unwrap();
    let damaged = |path: PathBuf| {
        let journal = open(&directory);
        fs::write(&path, b"{}").unwrap();
        let error = journal.load().unwrap_err();
        assert!(matches!(&error, JournalError::Damaged { path: named, .. } if *named == path), "{error}");
    };
    damaged(in_memory(&directory, &record));
    boot(&directory);
    damaged(on_disk(&directory, &record));
}

#[test]
fn only_one_node_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    assert!(matches!(try_open(&directory), Err(JournalError::Locked(_))));
    drop(journal);
    open(&directory);
}

#[test]
fn files_are_for_root_alone() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    let record = record(Phase::Idle);
    journal.save(&record).unwrap();
    crate::key::NodeKey::load_or_make(journal.root()).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(journal.root()), 0o700);
    assert_eq!(mode(&journal.root().join("key.pem")), 0o600);
    assert_eq!(mode(&journal.root().join("lock")), 0o600);
    assert_eq!(mode(&directory.path().join("run/journal")), 0o700);
    assert_eq!(mode(&in_memory(&directory, &record)), 0o600);
    let root = journal.root().to_owned();
    drop(journal);
    assert_eq!(mode(&root.join("agents")), 0o700);
    assert_eq!(mode(&on_disk(&directory, &record)), 0o600);
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
