//! The record of each connection, and of each attempt that was refused. Never of content.
//!
//! Nobody waits for it: what is too much is added up ([`fold`](super::fold)), and what is too much for that only counted. Each
//! agent has its own ledger, and they are told to node in turn, so that an agent that fills its own takes no record from another.

use super::fold::Folds;
use super::share::Bucket;
use crate::limits;
use model::AgentId;
use model::egress::{Connection, MAX_TEXT, Outcome};
use model::gate_api::FromGate;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// One agent's records that node was not told of yet.
pub struct Ledger {
    agent: AgentId,
    /// Where it says that it has something to tell.
    ready: mpsc::UnboundedSender<Arc<Ledger>>,
    pages: Mutex<Pages>,
}

struct Pages {
    waiting: VecDeque<Connection>,
    /// Of what passed, and of what did not: however much there is of that, it takes no record from what passed.
    passed: Kept,
    refused: Kept,
    /// Attempts that no record is left of.
    lost: u64,
    /// Whether it is time to say so.
    tell_lost: bool,
    /// Whether [`deliver`] knows that there is something to tell.
    ready: bool,
    /// Whether [`deliver`] comes by from time to time.
    swept: bool,
}

/// How much is kept of one kind.
struct Kept {
    bucket: Bucket,
    /// Records that may wait, of both kinds.
    room: usize,
    folds: Folds,
}

/// What is told in one turn.
struct Turn {
    message: Option<FromGate>,
    /// Whether there is more.
    again: bool,
    /// Whether to come by from now on.
    sweep: bool,
}

impl Ledger {
    /// An empty one. What is counted is told after `fold`.
    pub fn new(agent: AgentId, ready: mpsc::UnboundedSender<Arc<Self>>, fold: Duration) -> Arc<Self> {
        let pages = Pages {
            waiting: VecDeque::new(),
            passed: Kept {
                bucket: Bucket::with(limits::RECORDS_PER_SECOND, limits::RECORDS_AT_ONCE),
                room: limits::RECORDS_WAITING,
                folds: Folds::new(fold),
            },
            refused: Kept {
                bucket: Bucket::with(limits::REFUSALS_PER_SECOND, limits::REFUSALS_AT_ONCE),
                room: limits::REFUSALS_WAITING,
                folds: Folds::new(fold),
            },
            lost: 0,
            tell_lost: false,
            ready: false,
            swept: false,
        };
        Arc::new(Self { agent, ready, pages: Mutex::new(pages) })
    }

    /// Writes down what is over.
    pub fn write(self: &Arc<Self>, mut connection: Connection) {
        cut(&mut connection.by);
        connection.end.as_mut().map(cut);
        let mut pages = self.pages();
        pages.write(connection, Instant::now());
        if !pages.waiting.is_empty() || pages.needs_sweeping() && !pages.swept {
            self.is_ready(&mut pages);
        }
    }

    fn is_ready(self: &Arc<Self>, pages: &mut Pages) {
        if !std::mem::replace(&mut pages.ready, true) {
            // Nobody is there any more when the gate ends.
            let _ = self.ready.send(self.clone());
        }
    }

    fn turn(&self) -> Turn {
        let mut pages = self.pages();
        let agent = self.agent;
        let message = match pages.waiting.pop_front() {
            Some(connection) => Some(FromGate::Egress { agent, connection }),
            None if std::mem::take(&mut pages.tell_lost) => {
                Some(FromGate::EgressLost { agent, count: std::mem::take(&mut pages.lost) })
            }
            None => None,
        };
        pages.ready = !pages.waiting.is_empty() || pages.tell_lost;
        let sweep = !pages.swept && pages.needs_sweeping();
        pages.swept |= sweep;
        Turn { message, again: pages.ready, sweep }
    }

    /// Tells what was only counted so far. Whether to come by again.
    fn sweep(self: &Arc<Self>, now: Instant) -> bool {
        let mut pages = self.pages();
        // When node does not keep up, it goes on being counted.
        if pages.waiting.len() < limits::REFUSALS_WAITING {
            let (passed, refused) = (pages.passed.folds.over(now), pages.refused.folds.over(now));
            pages.waiting.extend(passed.into_iter().chain(refused));
        }
        pages.tell_lost = pages.lost > 0;
        if pages.tell_lost || !pages.waiting.is_empty() {
            self.is_ready(&mut pages);
        }
        pages.swept = pages.needs_sweeping();
        pages.swept
    }

    /// Nothing comes any more: tells all that is counted.
    fn close(&self) {
        let mut pages = self.pages();
        let (passed, refused) = (pages.passed.folds.close(), pages.refused.folds.close());
        pages.waiting.extend(passed.into_iter().chain(refused));
        pages.tell_lost = pages.lost > 0;
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn write(&mut self, record: Connection, now: Instant) {
        let refused = record.outcome == Outcome::Denied;
        let kept = if record.outcome == Outcome::Passed { &mut self.passed } else { &mut self.refused };
        let Some(record) = kept.folds.add(record, now) else { return };
        if self.waiting.len() < kept.room && kept.bucket.take().is_ok() {
            if refused {
                // Without room for that, those that follow are told one by one.
                kept.folds.after(&record, now);
            }
            self.waiting.push_back(record);
        } else if !kept.folds.from(record, now) {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn needs_sweeping(&self) -> bool {
        self.lost > 0 || !self.passed.folds.is_empty() || !self.refused.folds.is_empty()
    }
}

/// Tells node what the ledgers that are `ready` have, one record of each in turn, and comes by at those that count something
/// every `sweep`. Ends when node hears nothing any more, and when all is told once it is `over`.
pub async fn deliver(
    mut ready: mpsc::UnboundedReceiver<Arc<Ledger>>,
    to_node: mpsc::Sender<FromGate>,
    sweep: Duration,
    over: CancellationToken,
) {
    let mut ticks = tokio::time::interval(sweep);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Each ledger is at most once in each of them.
    let (mut turns, mut swept) = (VecDeque::<Arc<Ledger>>::new(), Vec::<Arc<Ledger>>::new());
    loop {
        tokio::select! {
            biased;
            now = ticks.tick(), if !swept.is_empty() => {
                swept.retain(|ledger| ledger.sweep(now));
                continue;
            }
            ledger = ready.recv() => {
                let Some(ledger) = ledger else { return };
                turns.push_back(ledger);
                continue;
            }
            () = std::future::ready(()), if !turns.is_empty() => {}
            () = over.cancelled() => {
                if swept.is_empty() {
                    return;
                }
                for ledger in swept.drain(..) {
                    ledger.close();
                    turns.push_back(ledger);
                }
            }
        }
        let Some(ledger) = turns.pop_front() else { continue };
        let Turn { message, again, sweep } = ledger.turn();
        if sweep {
            if swept.is_empty() {
                ticks.reset();
            }
            swept.push(ledger.clone());
        }
        if again {
            turns.push_back(ledger);
        }
        if let Some(message) = message
            && to_node.send(message).await.is_err()
        {
            return;
        }
    }
}

/// Cuts a text to what is kept of one.
fn cut(text: &mut String) {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
    }
}

#[cfg(test)]
mod tests {
    use super::{Ledger, deliver};
    use crate::limits;
    use model::AgentId;
    use model::egress::{Connection, MAX_TEXT, Outcome};
    use model::gate_api::FromGate;
    use std::time::Duration;
    use time::OffsetDateTime;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    fn record(host: usize, outcome: Outcome) -> Connection {
        Connection {
            credentials: Vec::new(),
            at: OffsetDateTime::UNIX_EPOCH,
            host: host.to_string(),
            port: Some(443),
            address: None,
            protocol: None,
            outcome,
            by: "rule 1".to_owned(),
            sent: 1,
            received: 0,
            duration_ms: 0,
            end: None,
            count: 1,
        }
    }

    /// All that is told of an agent: records, attempts that they stand for, and attempts of which there is none.
    fn told(all: &[FromGate], of: &Ledger, which: Outcome) -> (usize, u32, u64) {
        let (mut records, mut attempts, mut lost) = (0, 0, 0);
        for message in all {
            match message {
                FromGate::Egress { agent, connection }
                    if *agent == of.agent && connection.outcome == which =>
                {
                    records += 1;
                    attempts += connection.count;
                }
                FromGate::EgressLost { agent, count } if *agent == of.agent => lost += count,
                _ => {}
            }
        }
        (records, attempts, lost)
    }

    async fn rest(mut for_node: mpsc::Receiver<FromGate>) -> Vec<FromGate> {
        let mut all = Vec::new();
        while let Some(message) = for_node.recv().await {
            all.push(message);
        }
        all
    }

    #[tokio::test]
    async fn a_node_that_does_not_listen_keeps_nobody_waiting_and_hears_of_all_agents_in_turn() {
        let (ready, to_tell) = mpsc::unbounded_channel();
        let (to_node, mut for_node) = mpsc::channel(1);
        let fold = Duration::from_secs(60);
        let ledgers = [0, 1].map(|_| Ledger::new(AgentId::new(), ready.clone(), fold));
        let over = CancellationToken::new();
        let delivering = tokio::spawn(deliver(to_tell, to_node, Duration::from_millis(10), over.clone()));
        tokio::task::yield_now().await;
        for host in 0..2000 {
            ledgers[0].write(record(host, Outcome::Passed));
        }
        ledgers[1].write(record(0, Outcome::Passed));
        over.cancel();
        let mut all = Vec::new();
        while told(&all, &ledgers[1], Outcome::Passed).0 == 0 {
            all.extend(for_node.recv().await);
        }
        assert!(all.len() <= 4, "{}", all.len());
        all.extend(rest(for_node).await);
        delivering.await.unwrap();
        let (records, attempts, lost) = told(&all, &ledgers[0], Outcome::Passed);
        let at_once = limits::RECORDS_AT_ONCE as usize + limits::FOLDS;
        assert!((at_once..at_once + 50).contains(&records), "{records}");
        assert_eq!(u64::from(attempts) + lost, 2000);
    }

    #[tokio::test]
    async fn what_is_too_much_is_added_up_and_what_was_refused_takes_nothing_from_what_passed() {
        let (ready, to_tell) = mpsc::unbounded_channel();
        let (to_node, for_node) = mpsc::channel(10_000);
        let ledger = Ledger::new(AgentId::new(), ready, Duration::from_secs(60));
        for host in 0..10_000 {
            ledger.write(record(host, Outcome::Denied));
        }
        for count in 0..10_000 {
            ledger.write(record(count % 3, Outcome::Passed));
            ledger.write(record(7, Outcome::Denied));
        }
        let over = CancellationToken::new();
        over.cancel();
        deliver(to_tell, to_node, Duration::from_secs(60), over).await;
        let all = rest(for_node).await;
        let (records, attempts, _) = told(&all, &ledger, Outcome::Passed);
        // Room for the rest is taken by what was refused.
        let waiting = limits::RECORDS_WAITING - limits::REFUSALS_AT_ONCE as usize;
        assert!((waiting - 60..=waiting + 3).contains(&records), "{records}");
        assert_eq!(attempts, 10_000);
        let sent = all.iter().map(|message| match message {
            FromGate::Egress { connection, .. } if connection.outcome == Outcome::Passed => connection.sent,
            _ => 0,
        });
        assert_eq!(sent.sum::<u64>(), 10_000);
        let (_, attempts, lost) = told(&all, &ledger, Outcome::Denied);
        assert_eq!(u64::from(attempts) + lost, 20_000);
        assert!(attempts > 10_000);
    }

    #[tokio::test]
    async fn long_texts_are_cut() {
        let (ready, _to_tell) = mpsc::unbounded_channel();
        let ledger = Ledger::new(AgentId::new(), ready, Duration::from_secs(60));
        ledger.write(Connection {
            by: "é".repeat(MAX_TEXT),
            end: Some(format!("x{}", "é".repeat(MAX_TEXT))),
            ..record(0, Outcome::Passed)
        });
        let Some(FromGate::Egress { connection, .. }) = ledger.turn().message else { panic!() };
        assert_eq!(connection.by.len(), MAX_TEXT);
        assert_eq!(connection.end.unwrap().len(), MAX_TEXT - 1);
    }
}
