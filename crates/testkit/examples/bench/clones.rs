//! A clone of an agent with a gibibyte in its home, beside `cp --sparse` of the same volume to the same disk.

use crate::rows::{Rows, Target};
use crate::session::{self, Blanks, Session};
use model::clone::CloneAgent;
use std::process::Command;
use std::time::Instant;

const ROUNDS: usize = 3;

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Until the clone runs, of one that runs and stands still meanwhile.
pub fn measure(rows: &mut Rows) {
    eprintln!("clone: {ROUNDS} rounds");
    let session = Session::start(Blanks::None);
    let mut request = session.request();
    request.resources.disk = model::ByteSize(2 << 30);
    let (source, workspace) = session.wait(session::open(&session.control, request));
    let fill = ["sh", "-c", "head -c 1073741824 /dev/urandom > /home/agent/large && sync"];
    session.wait(session::run(&workspace, &fill));
    let volumes = session.world.dir().join("data/volumes");
    let file = volumes.join(format!("{}.ext4", source.volume.base32()));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let clone = CloneAgent { name: format!("copy-{round}").parse().expect("a name"), image: None };
        let id = source.id.to_string();
        let begun = Instant::now();
        let copy = session.wait(session.control.clone_agent(&id, &clone)).expect("a clone");
        let copy = session.wait(session.control.wait_agent(&copy.id.to_string(), "running", 120));
        ours.push(begun.elapsed().as_secs_f64());
        let copy = copy.expect("it comes to rest");
        assert_eq!(copy.state, model::AgentState::Running, "{:?}", copy.reason);
        session.wait(session::destroy(&session.control, &copy));

        let target = volumes.join(".peer");
        let begun = Instant::now();
        // As durable as a clone is, which nobody can lose once it runs.
        let copied = Command::new("cp").args(["--sparse=always"]).arg(&file).arg(&target).status();
        assert!(copied.expect("cp").success());
        std::fs::File::open(&target).and_then(|copy| copy.sync_all()).expect("it is on disk");
        theirs.push(begun.elapsed().as_secs_f64());
        std::fs::remove_file(&target).expect("removed");
    }
    let peer = Some(("cp + fsync", median(theirs)));
    rows.add(
        "clone of an agent with 1 GiB, until it runs",
        "s",
        median(ours),
        peer,
        Target::RatioAtMost(1.3),
    );
    session.wait(session::destroy(&session.control, &source));
}
