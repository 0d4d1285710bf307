use crate::canonical_user::CanonicalUser;
use crate::client::{Answer, BodyEnd, HttpClient};
use crate::disposition::{Fault, Verdict, status_reason};
use crate::headers::{Attempt, Credentials, fixed};
use crate::overrides::{overridden_verdict, reclassify};
use crate::problem::Problem;
use crate::redaction::Redactor;
use crate::settings::{AdapterSettings, TargetError, TargetSettings, WebhookBody};
use crate::{Delivery, Failure, FailureClass, Notice, Outcome, TenantInfo};
use crate::{backend_sync, crm_answer, crm_batch, external_id, idempotency, retry_after, webhook, workflow};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::value::RawValue;

/// One system kept in step, as the worker calls it. Holds the connections; make one per target and share it.
#[derive(Debug)]
pub struct Target {
    settings: TargetSettings,
    client: HttpClient,
    fixed_headers: HeaderMap,
}

/// A request ready to be sent. The body is a function of states and tenant alone.
struct Request {
    body: Vec<u8>,
    key: String,
    /// Values of the adapter's header templates, in their order.
    templated: Vec<String>,
}

impl Target {
    /// Checks the settings and builds the client; nothing is connected yet. Installs `ring` as the process's TLS
    /// provider if none is installed.
    ///
    /// # Errors
    /// When the URL, a header, the batch size or a disposition cannot be used, or the HTTP client cannot be built.
    pub fn new(settings: TargetSettings) -> Result<Self, TargetError> {
        if let AdapterSettings::CrmBatch { batch_users_max: users, .. } = settings.adapter
            && !(1..=crm_batch::USERS_MAX).contains(&users)
        {
            return Err(TargetError::BatchUsersMax { target: settings.name, users });
        }
        let kind = settings.adapter.kind();
        if let Some(problem) = settings.dispositions.iter().find_map(|entry| entry.problem(kind)) {
            return Err(TargetError::Disposition { target: settings.name, problem });
        }
        let fixed_headers = fixed(&settings)?;
        let client = HttpClient::new(&settings)?;
        Ok(Self { settings, client, fixed_headers })
    }

    /// Users one request carries at most.
    pub fn batch_users_max(&self) -> usize {
        match self.settings.adapter {
            AdapterSettings::BackendSync { .. }
            | AdapterSettings::Webhook { .. }
            | AdapterSettings::WorkflowTrigger(_) => 1,
            AdapterSettings::CrmBatch { batch_users_max, .. } => batch_users_max,
        }
    }

    /// Whether the target wants users of the tenant. Those it does not want must not be delivered.
    pub fn wants_tenant(&self, tenant: &str) -> bool {
        let tenants = &self.settings.tenants;
        tenants.is_empty() || tenants.iter().any(|wanted| wanted == tenant)
    }

    /// A digest of what the target watches of a user: of two states with the same digest the second is no news to a
    /// target that holds the first. None: every change is news, or the data cannot be read.
    pub fn fingerprint(&self, data: &RawValue) -> Option<[u8; 32]> {
        let fields = webhook::watched_fields(&self.settings.adapter);
        if fields.is_empty() { None } else { webhook::fingerprint(fields, data) }
    }

    /// Whether [`Target::fingerprint`] gives any.
    pub fn watches_fields(&self) -> bool {
        !webhook::watched_fields(&self.settings.adapter).is_empty()
    }

    /// Makes one attempt to deliver the states, all of one tenant and of distinct users, and gives one outcome per
    /// state in the same order. More states than [`Target::batch_users_max`] go out as several requests, one after the
    /// other. Never retries; returns within the timeout per request.
    pub async fn deliver(&self, deliveries: &[Delivery], tenant: &TenantInfo) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(deliveries.len());
        for batch in deliveries.chunks(self.batch_users_max()) {
            outcomes.extend(self.deliver_batch(batch, tenant).await);
        }
        outcomes
    }

    /// Whether the endpoint can be reached: connects and asks for its options, which changes nothing there. Any answer
    /// will do but a gateway's that the target is away. No credentials are sent.
    ///
    /// # Errors
    /// What stands in the way, for an operator.
    pub async fn probe(&self) -> Result<(), String> {
        match self.client.options().await {
            Ok(status @ 502..=504) => {
                Err(format!("{}: a gateway answers, but not the target", status_reason(status)))
            }
            Ok(_) => Ok(()),
            Err((fault, detail)) => Err(format!("{}: {detail}", fault.disposition().1)),
        }
    }

    /// Makes one attempt to tell a webhook what is no user's state, signed and authenticated as its other requests. Never
    /// retries; returns within the timeout.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn notify(&self, notice: &Notice) -> Result<(), Failure> {
        let AdapterSettings::Webhook { body, .. } = &self.settings.adapter else {
            return Err(Failure::of(Fault::RequestInvalid, "only webhooks are told notices"));
        };
        let source = match body {
            WebhookBody::CloudEvents { source, .. } => source,
            WebhookBody::Template(_) => "/postbound",
        };
        let (body, key, now) = (notice.render(source), notice.id.to_string(), self.settings.clock.now());
        let tenant = TenantInfo::unknown(notice.tenant.clone().unwrap_or_default());
        let attempt = Attempt {
            adapter: &self.settings.adapter,
            basic_user: self.settings.basic_user.as_deref(),
            templated: &[],
            tenant: &tenant,
            single: None,
            key: &key,
            body: &body,
            now: now.unix_timestamp(),
        };
        let unsendable = |(fault, detail)| Failure::of(fault, detail);
        let credentials = Credentials::current(&self.settings).map_err(unsendable)?;
        let mut headers = attempt.headers(&self.fixed_headers, &credentials).map_err(unsendable)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cloudevents+json"));
        let is_final = |status| self.verdict(status, false) == Verdict::Delivered;
        let answer = self.client.post(headers, body, now, is_final).await.map_err(unsendable)?;
        let Verdict::Failed(class) = self.verdict(answer.status, answer.retry_after.is_some()) else {
            return Ok(());
        };
        let failure = Failure::new(class, status_reason(answer.status), "");
        let mut failure = Failure { status: Some(answer.status), retry_after: answer.retry_after, ..failure };
        reclassify(&self.settings.dispositions, &mut failure);
        Err(failure)
    }

    async fn deliver_batch(&self, deliveries: &[Delivery], tenant: &TenantInfo) -> Vec<Outcome> {
        let (sound, request) = self.render(deliveries, tenant);
        let mut outcomes = match request {
            Some(request) => self.send(&sound, tenant, request).await,
            None => Vec::new(),
        };
        for outcome in &mut outcomes {
            if let Outcome::Failed(failure) = outcome {
                reclassify(&self.settings.dispositions, failure);
                failure.judge_bisection();
            }
        }
        let mut outcomes = outcomes.into_iter();
        if sound.len() == deliveries.len() {
            return outcomes.collect();
        }
        let is_sound = |delivery: &Delivery| sound.iter().any(|other| std::ptr::eq(*other, delivery));
        let unusable = || Outcome::Failed(Failure::of(Fault::DataInvalid, "the data is no JSON object"));
        deliveries
            .iter()
            .map(|delivery| is_sound(delivery).then(|| outcomes.next()).flatten().unwrap_or_else(unusable))
            .collect()
    }

    /// The deliveries whose data can be read, and the request for them unless there are none.
    fn render<'d>(
        &self,
        deliveries: &'d [Delivery],
        tenant: &TenantInfo,
    ) -> (Vec<&'d Delivery>, Option<Request>) {
        let states: Vec<(&Delivery, CanonicalUser<'_>)> = deliveries
            .iter()
            .filter_map(|delivery| Some((delivery, CanonicalUser::parse(&delivery.data)?)))
            .collect();
        let sound: Vec<&Delivery> = states.iter().map(|(delivery, _)| *delivery).collect();
        let Some((first, user)) = states.first() else { return (sound, None) };
        let mut templated = Vec::new();
        let body = match &self.settings.adapter {
            AdapterSettings::BackendSync { .. } => backend_sync::render(first, user),
            AdapterSettings::CrmBatch { synced_by, application_code, send_versions, .. } => {
                let envelope = crm_batch::Envelope {
                    tenant,
                    synced_by,
                    application_code,
                    send_versions: *send_versions,
                };
                crm_batch::render(&envelope, &states)
            }
            AdapterSettings::Webhook { body, headers, .. } => {
                let (body, values) = webhook::render(body, headers, first, tenant);
                templated = values;
                body
            }
            AdapterSettings::WorkflowTrigger(settings) => workflow::render(settings, first, user),
        };
        let events = sound.iter().map(|delivery| (delivery.event_id, delivery.resend));
        let key = idempotency::key(events, &self.settings.name, &body);
        (sound, Some(Request { body, key, templated }))
    }

    async fn send(&self, deliveries: &[&Delivery], tenant: &TenantInfo, request: Request) -> Vec<Outcome> {
        let now = self.settings.clock.now();
        let single = <[&Delivery; 1]>::try_from(deliveries).ok().map(|[delivery]| delivery);
        let attempt = Attempt {
            adapter: &self.settings.adapter,
            basic_user: self.settings.basic_user.as_deref(),
            templated: &request.templated,
            tenant,
            single,
            key: &request.key,
            body: &request.body,
            now: now.unix_timestamp(),
        };
        let prepared = Credentials::current(&self.settings).and_then(|credentials| {
            let headers = attempt.headers(&self.fixed_headers, &credentials)?;
            Ok((credentials, headers))
        });
        let (credentials, headers) = match prepared {
            Ok(prepared) => prepared,
            Err((fault, detail)) => return Failure::of(fault, detail).for_all(deliveries.len()),
        };
        let is_final = |status| {
            !may_be_stale(deliveries, status)
                && self.verdict(status, false) == Verdict::Delivered
                && !self.settings.adapter.reads_ids()
        };
        match self.client.post(headers, request.body, now, is_final).await {
            Ok(answer) => self.settle(&answer, deliveries, &credentials),
            Err((fault, detail)) => Failure::of(fault, detail).for_all(deliveries.len()),
        }
    }

    /// What a whole answer comes to, as after a request. For fuzzing, which needs no server for it; no part of the
    /// interface.
    #[doc(hidden)]
    pub fn read_answer(
        &self,
        status: u16,
        retry_after: Option<&str>,
        body: Vec<u8>,
        deliveries: &[Delivery],
    ) -> Vec<Outcome> {
        let credentials = match Credentials::current(&self.settings) {
            Ok(credentials) => credentials,
            Err((fault, detail)) => return Failure::of(fault, detail).for_all(deliveries.len()),
        };
        let answer = Answer {
            status,
            retry_after: retry_after.and_then(|value| retry_after::parse(value, self.settings.clock.now())),
            location_host: None,
            is_plain_text: true,
            body,
            end: BodyEnd::Whole,
        };
        self.settle(&answer, &deliveries.iter().collect::<Vec<_>>(), &credentials)
    }

    fn verdict(&self, status: u16, has_retry_after: bool) -> Verdict {
        overridden_verdict(&self.settings.dispositions, self.settings.adapter.kind(), status, has_retry_after)
    }

    /// What a whole answer says. A refused version comes before all else, whatever the status was made to mean.
    fn settle(&self, answer: &Answer, deliveries: &[&Delivery], credentials: &Credentials) -> Vec<Outcome> {
        if may_be_stale(deliveries, answer.status)
            && let Some(held_version) = Problem::parse(&answer.body).as_ref().and_then(Problem::stale)
        {
            return vec![Outcome::Stale { held_version }];
        }
        match self.verdict(answer.status, answer.retry_after.is_some()) {
            Verdict::Delivered => self.delivered(answer, deliveries, credentials),
            Verdict::Failed(class) => self.refused(class, answer, deliveries, credentials),
            Verdict::ReadResults => self.read_results(answer, deliveries, credentials),
        }
    }

    /// A status that is a success. Ids are taken from the body as far as it came: without them the state is delivered all
    /// the same, and asking again could do twice what shall be done once.
    fn delivered(
        &self,
        answer: &Answer,
        deliveries: &[&Delivery],
        credentials: &Credentials,
    ) -> Vec<Outcome> {
        let (mut external_id, mut links) = (None, Vec::new());
        match &self.settings.adapter {
            AdapterSettings::Webhook { external_id: Some(pointer), .. } if answer.end == BodyEnd::Whole => {
                let answer = serde_json::from_slice(&answer.body).ok();
                external_id = answer.and_then(|answer| external_id::at(&answer, pointer));
            }
            AdapterSettings::WorkflowTrigger(settings) if answer.end == BodyEnd::Whole => {
                if workflow::says_failed(&answer.body) {
                    let (class, reason) = Fault::SuccessFalse.disposition();
                    return self.refused_for(class, reason, answer, deliveries, credentials);
                }
                links = workflow::links(settings, &answer.body);
            }
            _ => {}
        }
        vec![Outcome::Delivered { external_id, links }; deliveries.len()]
    }

    fn read_results(
        &self,
        answer: &Answer,
        deliveries: &[&Delivery],
        credentials: &Credentials,
    ) -> Vec<Outcome> {
        let mut outcomes = match answer.end {
            BodyEnd::Whole => {
                crm_answer::settle(&answer.body, deliveries, || self.secrets(credentials).collect())
            }
            BodyEnd::TooLarge => {
                let detail = "the answer is longer than response_bytes_max";
                Failure::of(Fault::ResponseTooLarge, detail).for_all(deliveries.len())
            }
            BodyEnd::Timeout => {
                Failure::of(Fault::Timeout, "while reading the answer").for_all(deliveries.len())
            }
            BodyEnd::Cut => Failure::of(Fault::AnswerCut, "the connection ended within the answer")
                .for_all(deliveries.len()),
        };
        for outcome in &mut outcomes {
            if let Outcome::Failed(failure) = outcome {
                failure.status = Some(answer.status);
            }
        }
        outcomes
    }

    /// An answer that is no success.
    fn refused(
        &self,
        class: FailureClass,
        answer: &Answer,
        deliveries: &[&Delivery],
        credentials: &Credentials,
    ) -> Vec<Outcome> {
        self.refused_for(class, status_reason(answer.status), answer, deliveries, credentials)
    }

    /// The same for a reason other than its status.
    fn refused_for(
        &self,
        class: FailureClass,
        reason: &'static str,
        answer: &Answer,
        deliveries: &[&Delivery],
        credentials: &Credentials,
    ) -> Vec<Outcome> {
        let problem = Problem::parse(&answer.body);
        let redact = |text: &str| match text {
            "" => String::new(),
            text => Redactor::new(deliveries, self.secrets(credentials)).excerpt(text),
        };
        let detail = match (problem, &answer.location_host) {
            (_, Some(host)) if (300..400).contains(&answer.status) => format!("to host {host}"),
            (Some(problem), _) => redact(&problem.words()),
            // Cut text may end within a word that would then not be recognized.
            (None, _) if answer.is_plain_text && answer.end == BodyEnd::Whole => {
                redact(&String::from_utf8_lossy(&answer.body))
            }
            (None, _) => String::new(),
        };
        let failure = Failure::new(class, reason, detail);
        Failure { status: Some(answer.status), retry_after: answer.retry_after, ..failure }
            .for_all(deliveries.len())
    }

    /// Everything secret this request bore.
    fn secrets<'s>(&'s self, credentials: &'s Credentials) -> impl Iterator<Item = &'s str> {
        let headers = self.settings.headers.iter().map(|(_, value)| value.as_str());
        credentials.exposed().chain(headers)
    }
}

/// Whether an answer of this status speaks of one user's version, if its body says so. Of several users it cannot be told
/// whose is meant.
fn may_be_stale(deliveries: &[&Delivery], status: u16) -> bool {
    deliveries.len() == 1 && matches!(status, 409 | 412)
}
