use super::{
    Check, Contract,
    endpoint::Endpoint,
    explain,
    judge::{Judgement, Memory, Verdict, judge},
    report::{Finding, Sent},
};
use crate::exit::{Exit, failed};
use postbound_event::{Action, UserKey};
use postbound_target::{Clock, Delivery, FailureClass, Outcome, Target, TargetSettings, TenantInfo};
use serde_json::{json, value::RawValue};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use time::OffsetDateTime;
use uuid::Uuid;

/// The user most requests are about.
const SUBJECT: u8 = 1;
/// In a batch, a user whose states are always new and sound.
const BESIDE: u8 = 2;
/// A user whom a receiver may well refuse.
const MALFORMED: u8 = 3;
/// A user the endpoint is told of for the first time by a delete.
const UNKNOWN: u8 = 4;

/// Versions leave room between them for what comes too late.
const CREATED: i64 = 1;
const OLDER: i64 = 5;
const UPDATED: i64 = 10;
const BEFORE_DELETE: i64 = 15;
const DELETED: i64 = 20;
const RETURNED: i64 = 30;
const UNTRUSTED: i64 = 40;
/// Above all of them, and above a user's beside them.
const LAST: i64 = 1000;

/// One round of requests to an endpoint, in an order in which each makes sense after those before.
pub(super) struct Visit<'e> {
    endpoint: &'e Endpoint,
    target: Target,
    tenant: TenantInfo,
    /// What tells this check's users from those of any other.
    run: String,
    started_at: OffsetDateTime,
    /// Newest version of the user beside the subject.
    beside: i64,
    memory: Memory,
    /// Users it may hold, with whether they may be there still.
    held: BTreeMap<String, bool>,
    findings: Vec<Finding>,
}

/// What was found, and which data it leaves behind.
pub(super) struct Seen {
    pub(super) findings: Vec<Finding>,
    /// Users the endpoint took, with whether they may not be deleted.
    pub(super) held: BTreeMap<String, bool>,
}

impl<'e> Visit<'e> {
    pub(super) fn new(endpoint: &'e Endpoint) -> Result<Self, Exit> {
        let run = Uuid::new_v4().simple().to_string();
        Ok(Self {
            endpoint,
            target: Target::new(endpoint.settings.clone()).map_err(failed)?,
            tenant: TenantInfo {
                name: Some("Postbound receiver check".to_owned()),
                ..TenantInfo::unknown(endpoint.tenant.as_str())
            },
            run: run[..8].to_owned(),
            started_at: OffsetDateTime::now_utc(),
            beside: 0,
            memory: Memory::default(),
            held: BTreeMap::new(),
            findings: Vec::new(),
        })
    }

    /// Sends everything. Only an endpoint that takes a new user is asked on.
    pub(super) async fn run(mut self) -> Result<Seen, Exit> {
        let created = self.request(SUBJECT, CREATED, Action::Created);
        if !self.ask(Check::Create, &created).await {
            let why = "a new user was not taken";
            self.findings.push(Finding::skipped(None, &format!("all other checks: {why}")));
        } else if self.endpoint.contract == Contract::WorkflowTrigger {
            self.trigger(&created).await?;
        } else {
            self.ask(Check::Duplicate, &created).await;
            let again: Vec<Delivery> =
                created.into_iter().map(|state| Delivery { resend: 1, ..state }).collect();
            self.ask(Check::Resend, &again).await;
            self.change().await;
            self.delete().await;
            self.distrust().await?;
        }
        self.clean_up().await;
        Ok(Seen { findings: self.findings, held: self.held })
    }

    /// What a workflow hears of: a registration again, as after a lost answer, and one of a user who is back.
    async fn trigger(&mut self, created: &[Delivery]) -> Result<(), Exit> {
        self.ask(Check::Duplicate, created).await;
        let request = self.request(SUBJECT, RETURNED, Action::Created);
        self.ask(Check::Return, &request).await;
        self.distrust().await
    }

    /// Newer and older states.
    async fn change(&mut self) {
        let request = self.request(SUBJECT, UPDATED, Action::Updated);
        self.ask(Check::Update, &request).await;
        let request = self.request(SUBJECT, OLDER, Action::Updated);
        self.ask(Check::StaleVersion, &request).await;
        if self.endpoint.contract == Contract::CrmBatch {
            let request = self.request(MALFORMED, CREATED, Action::Created);
            self.ask(Check::PartialFailure, &request).await;
        }
    }

    /// Deletes, what comes too late after one, and a user who comes back.
    async fn delete(&mut self) {
        let deleted = self.request(SUBJECT, DELETED, Action::Deleted);
        if self.ask(Check::Delete, &deleted).await {
            self.ask(Check::RepeatedDelete, &deleted).await;
            let request = self.request(SUBJECT, BEFORE_DELETE, Action::Updated);
            self.ask(Check::LateUpdate, &request).await;
        }
        let request = self.request(SUBJECT, RETURNED, Action::Created);
        self.ask(Check::Return, &request).await;
        let request = self.request(UNKNOWN, CREATED, Action::Deleted);
        self.ask(Check::UnknownDelete, &request).await;
    }

    /// Requests that are not Postbound's.
    async fn distrust(&mut self) -> Result<(), Exit> {
        let endpoint = self.endpoint;
        match (endpoint.has_key(), endpoint.signs() || endpoint.has_other_credentials()) {
            (true, _) => self.ask_as(Check::BadKey, endpoint.with_wrong_keys()).await?,
            (false, true) => self.findings.push(Finding::skipped(Some(Check::BadKey), "no key is sent")),
            (false, false) => self.findings.push(Finding::open(Check::BadKey)),
        }
        if endpoint.signs() {
            self.ask_as(Check::BadSignature, endpoint.with_wrong_secret()).await?;
            let clock = Clock::new(|| OffsetDateTime::now_utc() - Duration::from_secs(3600));
            self.ask_as(Check::OldSignature, TargetSettings { clock, ..endpoint.settings.clone() }).await?;
        }
        Ok(())
    }

    /// Asks with other credentials, or at another time.
    async fn ask_as(&mut self, check: Check, settings: TargetSettings) -> Result<(), Exit> {
        // Whoever hears of no updates would not be asked.
        let action = if self.endpoint.wants(Action::Updated) { Action::Updated } else { Action::Created };
        let request = self.request(SUBJECT, UNTRUSTED, action);
        let right = std::mem::replace(&mut self.target, Target::new(settings).map_err(failed)?);
        self.ask(check, &request).await;
        self.target = right;
        Ok(())
    }

    /// Deletes whoever may be there.
    async fn clean_up(&mut self) {
        let there: Vec<String> =
            self.held.iter().filter(|(_, is_there)| **is_there).map(|(user, _)| user.clone()).collect();
        if there.is_empty() {
            return;
        }
        let request: Vec<Delivery> =
            there.into_iter().map(|user| self.state(user, LAST, Action::Deleted)).collect();
        self.ask(Check::CleanUp, &request).await;
    }

    /// A state of a user, and in a batch a newer one of the user beside.
    fn request(&mut self, user: u8, version: i64, action: Action) -> Vec<Delivery> {
        let mut states = vec![self.state(self.user(user), version, action)];
        if self.endpoint.contract == Contract::CrmBatch {
            self.beside += 1;
            let action = if self.beside == 1 { Action::Created } else { Action::Updated };
            states.push(self.state(self.user(BESIDE), self.beside, action));
        }
        states
    }

    fn user(&self, number: u8) -> String {
        format!("postbound-check-{}-{number}", self.run)
    }

    /// A state as a producer could have written it. Its e-mail address is another one from the first update on.
    fn state(&self, user: String, version: i64, action: Action) -> Delivery {
        let name = if version < UPDATED { "a" } else { "b" };
        let data = if user == self.user(UNKNOWN) {
            json!({})
        } else if user == self.user(MALFORMED) && action != Action::Deleted {
            json!({ "email": 7, "name": "Malformed", "isActive": "perhaps" })
        } else {
            json!({
                "email": format!("{user}-{name}@example.com"),
                "username": user,
                "displayName": "Postbound Check",
                "firstName": "Postbound",
                "lastName": "Check",
                "role": "user",
                "roles": ["user"],
                "permissions": [],
                "isActive": action != Action::Deleted,
            })
        };
        Delivery {
            event_id: Uuid::now_v7(),
            key: UserKey::new(self.endpoint.tenant.as_str(), user),
            version,
            action,
            logged_at: self.started_at,
            traceparent: None,
            data: RawValue::from_string(data.to_string()).expect("a value is JSON").into(),
            resend: 0,
            full_sync: false,
        }
    }

    /// Sends one request and judges what came of it. Gives whether its first user's state was taken.
    async fn ask(&mut self, check: Check, states: &[Delivery]) -> bool {
        let first = &states[0];
        if !self.endpoint.wants(first.action) {
            let why = format!("the target is not told of users who are {}", first.action);
            self.findings.push(Finding::skipped(Some(check), &why));
            return false;
        }
        let started = Instant::now();
        let outcomes = self.target.deliver(states, &self.tenant).await;
        let took = started.elapsed();
        let judgement =
            judge(check, states, &outcomes, &self.memory, self.endpoint).timed(took, self.endpoint);
        for (state, outcome) in states.iter().zip(&outcomes) {
            self.remember(state, outcome);
        }
        let sent =
            Sent { user: first.key.user.clone(), action: first.action.as_str(), version: first.version };
        self.findings.push(Finding::of(check, sent, took, judgement));
        matches!(outcomes[0], Outcome::Delivered { .. })
    }

    fn remember(&mut self, state: &Delivery, outcome: &Outcome) {
        let user = state.key.user.clone();
        match outcome {
            Outcome::Delivered { .. } => {
                if user == self.user(SUBJECT) && state.version >= self.memory.held {
                    self.memory.held = state.version;
                    self.memory.ids = explain::ids(outcome).or(self.memory.ids.take());
                }
                self.held.insert(user, state.action != Action::Deleted);
            }
            Outcome::Stale { .. } => {}
            Outcome::Failed(failure) => {
                if failure.class == FailureClass::Unknown && state.action != Action::Deleted {
                    self.held.insert(user, true);
                }
            }
        }
    }
}

impl Finding {
    /// Nothing to ask with: whoever reaches the endpoint may write.
    fn open(check: Check) -> Self {
        let judgement = Judgement {
            answer: "every request was taken without any credentials".to_owned(),
            postbound: "sends none, as none were given".to_owned(),
            verdict: Verdict::Weak,
            why: Some("whoever reaches the endpoint can change and delete users".to_owned()),
            mend: Some(
                "ask for a key, and give it: --api-key-file, --bearer-token-file or --secret-file; or keep it to the \
                 internal network, and say --accept bad-key"
                    .to_owned(),
            ),
        };
        Self::new(Some(check), None, None, judgement)
    }
}
