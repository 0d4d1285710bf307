use super::Scope;
use std::collections::{HashMap, VecDeque};

/// Users that must have failed: a few who retry fast are no failing target.
const USERS_MIN: usize = 5;
/// Tenants watched at most; further ones are watched when one of these falls silent.
const TENANTS_MAX: usize = 1000;

/// How deliveries ended in the last seconds, per tenant, as this worker saw it.
#[derive(Debug)]
pub(super) struct FailureWindow {
    seconds: u64,
    calls_min: u32,
    failing_share: f64,
    tenants: HashMap<String, Seconds>,
    /// Of all tenants together: while that says nothing, they are not gone through.
    all: Seconds,
}

type Seconds = VecDeque<Second>;

#[derive(Debug)]
struct Second {
    number: u64,
    succeeded: u32,
    failed: u32,
    /// Of the users that failed; enough of them to know that they were enough.
    users: Vec<u64>,
}

#[derive(Debug, Default, Clone)]
struct Sum {
    succeeded: u64,
    failed: u64,
    users: Vec<u64>,
}

impl FailureWindow {
    pub(super) fn new(seconds: u64, calls_min: u32, failing_share: f64) -> Self {
        let (tenants, all) = (HashMap::new(), Seconds::new());
        Self { seconds: seconds.max(1), calls_min, failing_share, tenants, all }
    }

    /// Adds how a request of a tenant ended in that second: how many users succeeded, and which failed (hashes).
    pub(super) fn record(&mut self, tenant: &str, second: u64, succeeded: u32, failed: &[u64]) {
        if !self.tenants.contains_key(tenant) {
            if self.tenants.len() >= TENANTS_MAX {
                let oldest = second.saturating_sub(self.seconds - 1);
                self.tenants.retain(|_, seconds| seconds.back().is_some_and(|last| last.number >= oldest));
            }
            if self.tenants.len() >= TENANTS_MAX {
                return;
            }
            self.tenants.insert(tenant.to_owned(), Seconds::new());
        }
        for seconds in self.tenants.get_mut(tenant).into_iter().chain([&mut self.all]) {
            add(seconds, self.seconds, second, succeeded, failed);
        }
    }

    /// Whether most deliveries fail, of the tenant that just had a failure or of all.
    ///
    /// All: two tenants or more fail, and that not for one tenant alone: without the one that fails most, most of the
    /// rest fail too.
    pub(super) fn judge(&self, tenant: &str, second: u64) -> Option<Scope> {
        let all = self.sum(&self.all, second);
        if self.fails(&all) && self.several_fail(&all, second) {
            return Some(None);
        }
        let own = self.sum(self.tenants.get(tenant)?, second);
        self.fails(&own).then(|| Some(tenant.to_owned()))
    }

    fn several_fail(&self, all: &Sum, second: u64) -> bool {
        let sums: Vec<Sum> = self.tenants.values().map(|seconds| self.sum(seconds, second)).collect();
        if sums.iter().filter(|sum| self.mostly_fails(sum)).count() < 2 {
            return false;
        }
        let Some(worst) = sums.iter().max_by_key(|sum| sum.failed) else { return false };
        let succeeded = all.succeeded.saturating_sub(worst.succeeded);
        let failed = all.failed.saturating_sub(worst.failed);
        self.mostly_fails(&Sum { succeeded, failed, users: Vec::new() })
    }

    /// Whether another tenant succeeded lately, of those that `counts`.
    pub(super) fn others_succeed(&self, second: u64, counts: impl Fn(&str) -> bool) -> bool {
        self.tenants.iter().any(|(tenant, seconds)| counts(tenant) && self.sum(seconds, second).succeeded > 0)
    }

    /// Forgets everything: what comes next is another time.
    pub(super) fn clear(&mut self) {
        self.tenants.clear();
        self.all.clear();
    }

    fn sum(&self, seconds: &Seconds, now: u64) -> Sum {
        let mut sum = Sum::default();
        for second in seconds.iter().filter(|second| second.number + self.seconds > now) {
            sum.succeeded += u64::from(second.succeeded);
            sum.failed += u64::from(second.failed);
            add_users(&mut sum.users, &second.users);
        }
        sum
    }

    fn fails(&self, sum: &Sum) -> bool {
        sum.succeeded + sum.failed >= u64::from(self.calls_min)
            && sum.users.len() >= USERS_MIN
            && self.mostly_fails(sum)
    }

    fn mostly_fails(&self, sum: &Sum) -> bool {
        sum.failed > 0 && sum.failed as f64 >= self.failing_share * (sum.succeeded + sum.failed) as f64
    }
}

/// Adds what happened in a second, and forgets those that are out of the window of so many.
fn add(seconds: &mut Seconds, window: u64, second: u64, succeeded: u32, failed: &[u64]) {
    if seconds.back().is_none_or(|last| last.number < second) {
        while seconds.front().is_some_and(|first| first.number + window <= second) {
            seconds.pop_front();
        }
        seconds.push_back(Second { number: second, succeeded: 0, failed: 0, users: Vec::new() });
    }
    let Some(last) = seconds.back_mut() else { return };
    last.succeeded = last.succeeded.saturating_add(succeeded);
    last.failed = last.failed.saturating_add(u32::try_from(failed.len()).unwrap_or(u32::MAX));
    add_users(&mut last.users, failed);
}

fn add_users(known: &mut Vec<u64>, users: &[u64]) {
    for user in users {
        if known.len() < USERS_MIN && !known.contains(user) {
            known.push(*user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "acme";

    /// Feeds (tenant, second, succeeded, failed users) and gives what the last failure came to.
    fn judged(calls: &[(&str, u64, u32, std::ops::Range<u64>)]) -> Option<Scope> {
        let mut window = FailureWindow::new(10, 20, 0.5);
        let mut last = None;
        for (tenant, second, succeeded, failed) in calls {
            window.record(tenant, *second, *succeeded, &failed.clone().collect::<Vec<_>>());
            last = window.judge(tenant, *second);
        }
        last
    }

    #[test]
    fn a_target_or_tenant_opens_when_most_of_its_deliveries_fail() {
        let check =
            |what: &str, calls: &[_], expected: Option<Scope>| assert_eq!(judged(calls), expected, "{what}");
        let acme = Some(Some(TENANT.to_owned()));
        check("too few calls", &[(TENANT, 0, 0, 0..19)], None);
        check("enough", &[(TENANT, 0, 0, 0..20)], acme.clone());
        check("the share", &[(TENANT, 0, 11, 0..10)], None);
        check("just the share", &[(TENANT, 0, 10, 0..10)], acme.clone());
        check("over ten seconds", &[(TENANT, 0, 0, 0..10), (TENANT, 9, 0, 10..20)], acme.clone());
        check("over eleven", &[(TENANT, 0, 0, 0..10), (TENANT, 10, 0, 10..20)], None);
        let four_users =
            [(TENANT, 0, 0, 0..4), (TENANT, 1, 0, 0..4), (TENANT, 2, 0, 0..4), (TENANT, 3, 0, 0..4)];
        check("four users who retry", &[&four_users[..], &four_users[3..], &four_users[3..]].concat(), None);
        check("others succeed", &[("good", 0, 30, 0..0), (TENANT, 0, 0, 0..20)], acme.clone());
        check("more succeed than fail", &[("good", 0, 300, 0..0), (TENANT, 0, 0, 0..20)], acme.clone());
        check("one failure elsewhere", &[("good", 0, 9, 90..91), (TENANT, 0, 0, 0..20)], acme);
        check("two tenants fail", &[("other", 0, 0, 0..10), (TENANT, 0, 0, 10..20)], Some(None));
        let two_of_three = [("good", 0, 30, 0..0), ("other", 0, 0, 0..10), (TENANT, 0, 0, 10..20)];
        check("two small ones fail, a third does not", &two_of_three, None);
    }

    #[test]
    fn many_tenants_with_a_call_each_are_a_failing_target() {
        let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let calls: Vec<_> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), 0, 0, n..n + 1)).collect();
        assert_eq!(judged(&calls), Some(None));
    }

    #[test]
    fn tenants_that_are_watched_are_bounded() {
        let mut window = FailureWindow::new(10, 20, 0.5);
        for n in 0..2 * TENANTS_MAX {
            window.record(&n.to_string(), 0, 1, &[]);
        }
        assert_eq!(window.tenants.len(), TENANTS_MAX);
        window.record(TENANT, 10, 1, &[]);
        assert_eq!(window.tenants.len(), 1, "those that fell silent make room");
    }
}
