//! Arithmetic of usage: what a state period counts for, on which days, and what sums are made of. Whole numbers throughout: an instant is
//! milliseconds since 1970, a day the number of days since then (UTC, as POSIX counts: each has 86,400 seconds).
//!
//! Pure, and without any other crate: no clock, no IO, no rounding.

use crate::agent::AgentState;
use crate::quantity::ByteSize;
use std::ops::AddAssign;

/// Milliseconds of a day.
pub const DAY: i64 = 86_400_000;

/// How long `stopping` counts as running at most, in milliseconds. What is asked to stop goes on running until it has, which its node
/// sees to within this; a node that was lost says nothing, and nobody pays for its silence.
pub const STOPPING: i64 = 70_000;

/// The day of an instant.
pub fn day_of(instant: i64) -> i64 {
    instant.div_euclid(DAY)
}

/// How long something was what, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// It ran.
    pub running: i64,
    /// It was frozen: no processor time, and its memory is still its own.
    pub paused: i64,
    /// Its volume was kept, whatever else.
    pub kept: i64,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.running += other.running;
        self.paused += other.paused;
        self.kept += other.kept;
    }
}

impl Spent {
    /// Whether there is nothing to tell.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

fn overlap(from: i64, until: i64, since: i64, before: i64) -> i64 {
    (until.min(before) - from.max(since)).max(0)
}

/// What a period counts for within `since..before`. An open one is given the present as its end.
pub fn spent(state: AgentState, from: i64, until: i64, since: i64, before: i64) -> Spent {
    use AgentState as S;
    let whole = overlap(from, until, since, before);
    let none = Spent::default();
    match state {
        S::Running => Spent { running: whole, kept: whole, ..none },
        S::Paused => Spent { paused: whole, kept: whole, ..none },
        S::Stopping => {
            let running = overlap(from, until.min(from.saturating_add(STOPPING)), since, before);
            Spent { running, kept: whole, ..none }
        }
        S::Stopped | S::Starting | S::Failed => Spent { kept: whole, ..none },
        // There is no volume yet, or none any more.
        S::Provisioning | S::Destroying | S::Destroyed => none,
    }
}

/// The days that a period touches within `since..before`, each with what it counts for there.
pub fn by_day(
    state: AgentState,
    from: i64,
    until: i64,
    since: i64,
    before: i64,
) -> impl Iterator<Item = (i64, Spent)> {
    let (first, end) = (from.max(since), until.min(before));
    let days = if first < end { day_of(first)..day_of(end - 1) + 1 } else { 0..0 };
    days.map(move |day| {
        let (start, over) = (day * DAY, (day + 1) * DAY);
        (day, spent(state, from, until, since.max(start), before.min(over)))
    })
    .filter(|(_, spent)| !spent.is_nothing())
}

/// What an agent was created with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Thousandths of a core.
    pub cpus: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub disk: i64,
}

/// Sums that a bill is made of: time, and time multiplied by what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Milliseconds.
    pub running: i128,
    /// Milliseconds.
    pub paused: i128,
    /// Milliseconds.
    pub kept: i128,
    /// Thousandths of a core × milliseconds, while it ran.
    pub cpu_running: i128,
    /// The same while it was paused.
    pub cpu_paused: i128,
    /// MiB × milliseconds, while it ran.
    pub memory_running: i128,
    /// The same while it was paused.
    pub memory_paused: i128,
    /// MiB × milliseconds, while its volume was kept.
    pub disk: i128,
}

/// Started MiB count as whole ones.
fn mebibytes(bytes: i64) -> i128 {
    i128::from(bytes).div_euclid(1 << 20) + i128::from(bytes.rem_euclid(1 << 20) > 0)
}

impl Amounts {
    /// Of one agent.
    pub fn of(size: Size, spent: Spent) -> Self {
        let (running, paused, kept) =
            (i128::from(spent.running), i128::from(spent.paused), i128::from(spent.kept));
        let (cpus, memory, disk) = (i128::from(size.cpus), mebibytes(size.memory), mebibytes(size.disk));
        Self {
            running,
            paused,
            kept,
            cpu_running: cpus * running,
            cpu_paused: cpus * paused,
            memory_running: memory * running,
            memory_paused: memory * paused,
            disk: disk * kept,
        }
    }
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        self.running += other.running;
        self.paused += other.paused;
        self.kept += other.kept;
        self.cpu_running += other.cpu_running;
        self.cpu_paused += other.cpu_paused;
        self.memory_running += other.memory_running;
        self.memory_paused += other.memory_paused;
        self.disk += other.disk;
    }
}

impl From<&crate::resources::Resources> for Size {
    fn from(resources: &crate::resources::Resources) -> Self {
        let stored = |ByteSize(bytes): ByteSize| i64::try_from(bytes).unwrap_or(i64::MAX);
        Self {
            cpus: i64::try_from(crate::quota::thousandths(resources.cpus)).unwrap_or(i64::MAX),
            memory: stored(resources.memory),
            disk: stored(resources.disk),
        }
    }
}

/// The first day of the month that a day is in, and of the month after it.
pub fn month_of(day: i64) -> (i64, i64) {
    let (year, month, _) = civil(day);
    let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    (days_from(year, month, 1), days_from(next.0, next.1, 1))
}

/// Year, month and day of a day, in the Gregorian calendar. After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
pub fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The day of a date; the way back from [`civil`].
pub fn days_from(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATES: [AgentState; 9] = AgentState::ALL;

    #[test]
    fn states_count_for_what_they_are() {
        let check = |state, expected: (i64, i64, i64)| {
            let Spent { running, paused, kept } = spent(state, 0, 100_000, 0, DAY);
            assert_eq!((running, paused, kept), expected, "{state}");
        };
        check(AgentState::Provisioning, (0, 0, 0));
        check(AgentState::Running, (100_000, 0, 100_000));
        check(AgentState::Paused, (0, 100_000, 100_000));
        check(AgentState::Stopping, (STOPPING, 0, 100_000));
        check(AgentState::Stopped, (0, 0, 100_000));
        check(AgentState::Starting, (0, 0, 100_000));
        check(AgentState::Failed, (0, 0, 100_000));
        check(AgentState::Destroying, (0, 0, 0));
        check(AgentState::Destroyed, (0, 0, 0));
    }

    #[test]
    fn what_crosses_midnight_is_split_there() {
        let days = |state, from, until| by_day(state, from, until, 0, 100 * DAY).collect::<Vec<_>>();
        let told = days(AgentState::Running, DAY - 1, 2 * DAY + 3);
        let running: Vec<_> = told.iter().map(|(day, spent)| (*day, spent.running)).collect();
        assert_eq!(running, [(0, 1), (1, DAY), (2, 3)]);
        assert!(days(AgentState::Running, DAY, DAY).is_empty());
        assert!(
            days(AgentState::Running, DAY, DAY - 5).is_empty(),
            "a clock that stepped back counts for nothing"
        );
        // What is left of a stop after midnight is not counted anew.
        let stopping = days(AgentState::Stopping, DAY - 60_000, DAY + 60_000);
        assert_eq!(stopping[0].1.running + stopping[1].1.running, STOPPING);
        assert_eq!(stopping[1].1.running, 10_000);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (day, date) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (11_016, (2000, 2, 29)),
            (20_781, (2026, 11, 24)),
            (47_482, (2100, 1, 1)),
        ] {
            assert_eq!(civil(day), date);
            assert_eq!(days_from(date.0, date.1, date.2), day);
        }
        assert_eq!(month_of(days_from(2026, 12, 31)), (days_from(2026, 12, 1), days_from(2027, 1, 1)));
        assert_eq!(month_of(days_from(2024, 2, 1)).1 - month_of(days_from(2024, 2, 1)).0, 29);
    }

    #[test]
    fn amounts_are_time_by_size() {
        let size = Size { cpus: 1_500, memory: (1 << 30) + 1, disk: 1 };
        let spent = Spent { running: 10, paused: 4, kept: 20 };
        let expected = Amounts {
            running: 10,
            paused: 4,
            kept: 20,
            cpu_running: 15_000,
            cpu_paused: 6_000,
            memory_running: 10_250,
            memory_paused: 4_100,
            disk: 20,
        };
        assert_eq!(Amounts::of(size, spent), expected);
    }

    proptest! {
        /// However a life is cut into days, and wherever the counting stopped in between, the sum is the same.
        #[test]
        fn days_add_up(
            lengths in proptest::collection::vec((0..STATES.len(), 0..3 * DAY), 1..12),
            start in 0..5 * DAY,
            cut in 0..40 * DAY,
        ) {
            let (mut whole, mut cut_up, mut by_days) = (Spent::default(), Spent::default(), Spent::default());
            let (mut at, end) = (start, 1_000 * DAY);
            for (state, length) in lengths {
                let (state, until) = (STATES[state], at + length);
                whole += spent(state, at, until, 0, end);
                cut_up += spent(state, at, until, 0, cut);
                cut_up += spent(state, at, until, cut, end);
                for (day, spent) in by_day(state, at, until, 0, end) {
                    prop_assert!(spent.running + spent.paused <= spent.kept);
                    prop_assert!(spent.kept <= DAY);
                    prop_assert!((at / DAY..=until / DAY).contains(&day));
                    by_days += spent;
                }
                at = until;
            }
            prop_assert_eq!(whole, cut_up);
            prop_assert_eq!(whole, by_days);
            prop_assert!(whole.kept <= at - start);
        }

        #[test]
        fn dates_go_round(day in -800_000_i64..3_000_000) {
            let (year, month, of_month) = civil(day);
            prop_assert_eq!(days_from(year, month, of_month), day);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&of_month));
            let (first, next) = month_of(day);
            prop_assert!(first <= day && day < next && next - first >= 28 && next - first <= 31);
        }
    }
}
