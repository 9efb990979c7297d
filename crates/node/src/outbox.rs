//! What gates say left their agents, and what waits for a person, on its way to control. None of it is kept on disk: with node's end
//! its last moments are lost.

use crate::backoff::Backoff;
use crate::control::Caller;
use model::egress::{Connection, EgressReport, Lost, MAX_QUESTIONS, MAX_RECORDS, Question, Record, Waiting};
use model::{AccountId, AgentId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Records that are held while control does not take them.
const RECORDS: usize = 20_000;
/// Those of one agent, so that one that connects without end does not cost others theirs. And of one account there are never more
/// than are free for all others.
const RECORDS_OF_ONE: usize = 1000;
/// Questions of all agents: control takes them in one piece. What is not told of waits for nobody, and is refused in the end.
const QUESTIONS: usize = 8192;
/// How long records are gathered, so that many go at once.
const GATHER: Duration = Duration::from_millis(200);
/// Between two reports, however much a gate says: control has one writer for all accounts.
const PACE: Duration = Duration::from_millis(50);

/// Holds it until control has it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    wake: Notify,
    /// Told when questions changed, and when control was silent and answers again: both are for now.
    urgent: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    records: VecDeque<(AccountId, Record)>,
    held: HashMap<AgentId, usize>,
    held_by: HashMap<AccountId, usize>,
    lost: BTreeMap<(AgentId, AccountId), u64>,
    questions: BTreeMap<AgentId, (AccountId, Vec<Question>)>,
    questions_due: bool,
}

impl Outbox {
    /// Control may believe that something waits which a node before this one told of.
    pub(crate) fn new() -> Self {
        let inner = Inner { questions_due: true, ..Inner::default() };
        Self { inner: Mutex::new(inner), ..Self::default() }
    }

    /// A connection is over, or attempts were refused.
    pub(crate) fn record(&self, account: AccountId, agent: AgentId, connection: Connection) {
        let mut inner = self.lock();
        let free = RECORDS.saturating_sub(inner.records.len());
        let of = |held: Option<&usize>| held.copied().unwrap_or_default();
        if of(inner.held_by.get(&account)) >= free || of(inner.held.get(&agent)) >= RECORDS_OF_ONE {
            inner.lose(account, agent, u64::from(connection.count));
        } else {
            inner.count(account, agent);
            inner.records.push_back((account, Record { agent, account: Some(account), connection }));
        }
        self.wake.notify_one();
    }

    /// So many more were.
    pub(crate) fn lose(&self, account: AccountId, agent: AgentId, count: u64) {
        let mut inner = self.lock();
        inner.lose(account, agent, count);
        self.wake.notify_one();
    }

    /// All that the agent waits for now.
    pub(crate) fn ask(&self, account: AccountId, agent: AgentId, mut questions: Vec<Question>) {
        let mut inner = self.lock();
        let (mut taken, mut own) = (0, 0);
        for (_, (by, questions)) in inner.questions.iter().filter(|(of, _)| **of != agent) {
            taken += questions.len();
            own += if *by == account { questions.len() } else { 0 };
        }
        // As with records, no account has more than are free for all others.
        questions.truncate(MAX_QUESTIONS.min(QUESTIONS.saturating_sub(taken + own)));
        let before = match questions.is_empty() {
            true => inner.questions.remove(&agent),
            false => inner.questions.insert(agent, (account, questions.clone())),
        };
        if before.map(|(_, before)| before).unwrap_or_default() != questions {
            inner.questions_due = true;
            self.wake.notify_one();
            self.urgent.notify_one();
        }
    }

    /// Control may have forgotten what waits, and is there for what it did not take.
    pub(crate) fn control_answers(&self) {
        self.lock().questions_due = true;
        self.wake.notify_one();
        self.urgent.notify_one();
    }

    /// What goes out now, if anything does.
    pub(crate) fn take(&self) -> Option<Taken> {
        let mut inner = self.lock();
        let count = inner.records.len().min(MAX_RECORDS);
        let taken: Vec<_> = inner.records.drain(..count).collect();
        for (account, Record { agent, .. }) in &taken {
            less(&mut inner.held, agent);
            less(&mut inner.held_by, account);
        }
        let lost = std::mem::take(&mut inner.lost);
        let questions = std::mem::take(&mut inner.questions_due).then(|| inner.waiting());
        let (accounts, records) = taken.into_iter().unzip();
        let report = EgressReport {
            records,
            lost: lost
                .into_iter()
                .map(|((agent, account), count)| Lost { agent, account: Some(account), count })
                .collect(),
            questions,
        };
        (report != EgressReport::default()).then_some(Taken { report, accounts })
    }

    /// Control did not take it.
    fn give_back(&self, Taken { report, accounts }: Taken) {
        let mut inner = self.lock();
        for (account, record) in accounts.into_iter().zip(report.records).rev() {
            inner.count(account, record.agent);
            inner.records.push_front((account, record));
        }
        for Lost { agent, account, count } in report.lost {
            account.into_iter().for_each(|account| inner.lose(account, agent, count));
        }
        inner.questions_due |= report.questions.is_some();
    }

    /// Control will never take it: that there is a gap is told, and if that is refused, too, nothing more.
    fn refused(&self, Taken { report, accounts }: Taken) {
        let mut inner = self.lock();
        for (account, Record { agent, connection, .. }) in accounts.into_iter().zip(report.records) {
            inner.lose(account, agent, u64::from(connection.count));
        }
    }

    /// Sends, for ever.
    pub(crate) async fn run(&self, caller: &Caller) {
        let mut backoff = Backoff::to_control();
        loop {
            let Some(taken) = self.take() else {
                self.wake.notified().await;
                if !self.lock().questions_due {
                    let _ = tokio::time::timeout(GATHER, self.urgent.notified()).await;
                }
                continue;
            };
            match caller.report_egress(&taken.report).await {
                Ok(()) => backoff.reset(),
                Err(error)
                    if error.is_refusal() && caller.report_egress(&plain(&taken.report)).await.is_ok() =>
                {
                    // Of an earlier version, which refuses to be told whose gate says so.
                    backoff.reset();
                }
                Err(error) if error.is_refusal() => {
                    // Of an earlier version, which knows nothing of this, or it finds fault with what a gate said: never taken.
                    tracing::error!(error = %crate::chain(&error), "control refuses what left agents");
                    self.refused(taken);
                }
                Err(error) => {
                    self.give_back(taken);
                    tracing::debug!(error = %crate::chain(&error), "control did not take what left agents");
                    let _ = tokio::time::timeout(backoff.delay(), self.urgent.notified()).await;
                }
            }
            tokio::time::sleep(PACE).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What goes out, and whose the records are, in their order.
#[derive(Debug)]
pub(crate) struct Taken {
    pub report: EgressReport,
    accounts: Vec<AccountId>,
}

impl Inner {
    fn waiting(&self) -> Vec<Waiting> {
        let of = |(agent, (account, questions)): (&AgentId, &(AccountId, Vec<Question>))| Waiting {
            agent: *agent,
            account: Some(*account),
            questions: questions.clone(),
        };
        self.questions.iter().map(of).collect()
    }

    fn count(&mut self, account: AccountId, agent: AgentId) {
        *self.held.entry(agent).or_default() += 1;
        *self.held_by.entry(account).or_default() += 1;
    }

    fn lose(&mut self, account: AccountId, agent: AgentId, count: u64) {
        let lost = self.lost.entry((agent, account)).or_default();
        *lost = lost.saturating_add(count);
    }
}

fn less<K: Eq + Hash>(held: &mut HashMap<K, usize>, of: &K) {
    if let Some(count) = held.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            held.remove(of);
        }
    }
}

/// The same without what an earlier control does not know.
fn plain(report: &EgressReport) -> EgressReport {
    let mut plain = report.clone();
    plain.records.iter_mut().for_each(|record| record.account = None);
    plain.lost.iter_mut().for_each(|lost| lost.account = None);
    plain.questions.iter_mut().flatten().for_each(|waiting| waiting.account = None);
    plain
}

/// What a gate says is looked at before it is passed on; `false` for what no honest one says.
pub(crate) fn is_sane(connection: &Connection) -> bool {
    let texts = [Some(&connection.by), connection.end.as_ref()];
    connection.count > 0
        && is_host(&connection.host)
        && texts.into_iter().flatten().all(|text| text.len() <= model::egress::MAX_TEXT)
}

/// As [`is_sane`].
pub(crate) fn is_sane_question(question: &Question) -> bool {
    is_host(&question.host) && question.port > 0
}

/// A name, or a literal address.
fn is_host(host: &str) -> bool {
    (1..=253).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::egress::Outcome;
    use time::OffsetDateTime;

    fn connection(host: &str) -> Connection {
        Connection {
            credentials: Vec::new(),
            at: OffsetDateTime::UNIX_EPOCH,
            host: host.to_owned(),
            port: Some(443),
            address: None,
            protocol: None,
            outcome: Outcome::Denied,
            by: "unknown".to_owned(),
            sent: 0,
            received: 0,
            duration_ms: 0,
            end: None,
            count: 2,
        }
    }

    fn question(host: &str) -> Question {
        let at = OffsetDateTime::UNIX_EPOCH;
        Question { host: host.to_owned(), port: 443, asked: at, until: at }
    }

    #[test]
    fn a_new_node_tells_that_nothing_waits() {
        let outbox = Outbox::new();
        let report = outbox.take().unwrap().report;
        assert_eq!(report, EgressReport { questions: Some(Vec::new()), ..EgressReport::default() });
        assert!(outbox.take().is_none());
    }

    #[test]
    fn records_go_in_their_order_and_again_when_they_were_not_taken() {
        let outbox = Outbox::default();
        let (account, agent) = (AccountId::new(), AgentId::new());
        for number in 0..MAX_RECORDS + 1 {
            outbox.record(account, agent, connection(&format!("{number}.example")));
        }
        let taken = outbox.take().unwrap();
        let records = taken.report.records.clone();
        assert_eq!(records.len(), MAX_RECORDS);
        outbox.give_back(taken);
        assert_eq!(outbox.take().unwrap().report.records, records);
        assert_eq!(outbox.take().unwrap().report.records.len(), 1);
        assert!(outbox.take().is_none());
        assert!(outbox.lock().held.is_empty() && outbox.lock().held_by.is_empty());
    }

    #[test]
    fn what_is_refused_is_a_gap_that_is_told_once() {
        let outbox = Outbox::default();
        let (account, agent) = (AccountId::new(), AgentId::new());
        outbox.record(account, agent, connection("a.example"));
        outbox.refused(outbox.take().unwrap());
        let gap = outbox.take().unwrap();
        assert_eq!(
            (gap.report.records.len(), &*gap.report.lost),
            (0, &[Lost { agent, account: Some(account), count: 2 }][..])
        );
        outbox.refused(gap);
        assert!(outbox.take().is_none());
    }

    #[test]
    fn one_agent_does_not_cost_another_its_records() {
        let outbox = Outbox::default();
        let (account, [loud, quiet]) = (AccountId::new(), [AgentId::new(), AgentId::new()]);
        for _ in 0..RECORDS_OF_ONE + 3 {
            outbox.record(account, loud, connection("a.example"));
        }
        outbox.lose(account, loud, 5);
        outbox.record(account, quiet, connection("b.example"));
        let first = outbox.take().unwrap().report;
        assert_eq!(first.lost, [Lost { agent: loud, account: Some(account), count: 3 * 2 + 5 }]);
        let mut told = first.records;
        while let Some(more) = outbox.take() {
            told.extend(more.report.records);
        }
        assert_eq!(told.iter().filter(|record| record.agent == quiet).count(), 1);
        assert_eq!(told.len(), RECORDS_OF_ONE + 1);
    }

    #[test]
    fn questions_are_told_whole_when_they_changed() {
        let outbox = Outbox::default();
        let (account, agent) = (AccountId::new(), AgentId::new());
        outbox.ask(account, agent, vec![question("a.example")]);
        let told = outbox.take().unwrap().report.questions.unwrap();
        assert_eq!(told, [Waiting { agent, account: Some(account), questions: vec![question("a.example")] }]);
        outbox.ask(account, agent, vec![question("a.example")]);
        assert!(outbox.take().is_none(), "no news");
        outbox.ask(account, agent, Vec::new());
        assert_eq!(outbox.take().unwrap().report.questions, Some(Vec::new()));
        outbox.ask(account, agent, vec![question("b.example"); MAX_QUESTIONS + 1]);
        let told = outbox.take().unwrap();
        let report = told.report.clone();
        assert_eq!(report.questions.as_ref().unwrap()[0].questions.len(), MAX_QUESTIONS);
        outbox.give_back(told);
        assert_eq!(outbox.take().unwrap().report, report);
    }

    #[test]
    fn one_account_leaves_as_much_as_it_has() {
        let outbox = Outbox::default();
        let [loud, quiet] = [AccountId::new(), AccountId::new()];
        for _ in 0..RECORDS / RECORDS_OF_ONE {
            let agent = AgentId::new();
            (0..RECORDS_OF_ONE).for_each(|_| outbox.record(loud, agent, connection("a.example")));
        }
        for _ in 0..QUESTIONS / MAX_QUESTIONS {
            outbox.ask(loud, AgentId::new(), vec![question("a.example"); MAX_QUESTIONS]);
        }
        let agent = AgentId::new();
        outbox.record(quiet, agent, connection("b.example"));
        outbox.ask(quiet, agent, vec![question("b.example")]);
        assert!(outbox.lock().records.iter().any(|(account, _)| *account == quiet));
        assert!(outbox.lock().questions.contains_key(&agent));
    }

    #[test]
    fn questions_stay_in_their_bounds() {
        let outbox = Outbox::default();
        for _ in 0..QUESTIONS / MAX_QUESTIONS + 2 {
            outbox.ask(AccountId::new(), AgentId::new(), vec![question("a.example"); MAX_QUESTIONS]);
        }
        let told = outbox.take().unwrap().report.questions.unwrap();
        assert_eq!(told.iter().map(|waiting| waiting.questions.len()).sum::<usize>(), QUESTIONS);
    }

    #[test]
    fn what_no_honest_gate_says_is_seen() {
        assert!(is_sane(&connection("a.example")));
        for host in ["", "a b", "a\u{1b}[2J", &"x".repeat(254)] {
            assert!(!is_sane(&connection(host)), "{host:?}");
            assert!(!is_sane_question(&question(host)), "{host:?}");
        }
        assert!(!is_sane(&Connection { count: 0, ..connection("a.example") }));
        assert!(!is_sane(&Connection { by: "x".repeat(121), ..connection("a.example") }));
    }
}
