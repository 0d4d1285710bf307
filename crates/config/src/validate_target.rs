use ipnet::IpNet;
use url::Url;

use crate::adapter::{Adapter, Webhook, WorkflowTrigger};
use crate::breaker::Breaker;
use crate::retry::Retry;
use crate::target::Target;
use crate::validate::{Check, span};

impl Check<'_> {
    pub(crate) fn target(&mut self, target: &Target) {
        let section = format!("targets.{}", target.name);
        let key = |name: &str| format!("{section}.{name}");
        self.require(
            is_target_name(&target.name),
            &section,
            "a target's name is a-z, 0-9 and `-`, starts with a letter and has at most 40 characters",
        );
        self.target_url(target, &key("url"));
        self.require(
            !target.actions.is_empty(),
            &key("actions"),
            "a target that wants no action gets nothing",
        );
        self.some_count(target.concurrency, &key("concurrency"));
        self.some_count(target.in_flight_bytes_max, &key("in_flight_bytes_max"));
        self.at_least_one(target.prefetch_messages, &key("prefetch_messages"));
        self.some_time(target.timeout, &key("timeout"));
        self.some_time(target.connect_timeout, &key("connect_timeout"));
        self.some_count(target.response_bytes_max, &key("response_bytes_max"));
        self.pacing(target, &section);
        self.dispositions(target, &key("dispositions"));
        self.one_source(target.api_key.is_some(), &target.api_key_file, &key("api_key"));
        self.one_source(target.bearer_token.is_some(), &target.bearer_token_file, &key("bearer_token"));
        let signs = !target.signing_secrets.is_empty();
        self.one_source(signs, &target.signing_secrets_file, &key("signing_secrets"));
        self.signing_secrets(&target.signing_secrets, &key("signing_secrets"));
        self.headers(target, &key("headers"));
        self.credentials(target, &section);
        match &target.adapter {
            Adapter::Webhook(webhook) => self.webhook(target, webhook, &section),
            Adapter::WorkflowTrigger(workflow) => self.workflow(workflow, &section),
            Adapter::BackendSync(_) | Adapter::CrmBatch(_) => {}
        }
        if let Adapter::CrmBatch(crm) = &target.adapter {
            let fits = (1..=100).contains(&crm.batch_users_max);
            self.require(
                fits,
                &key("batch_users_max"),
                "must be between 1 and 100, the most the contract takes",
            );
            self.require(
                crm.send_versions || !target.guards_versions,
                &key("guards_versions"),
                "needs send_versions: a target can guard only the versions it is told",
            );
        }
    }

    fn pacing(&mut self, target: &Target, section: &str) {
        let key = |name: &str| format!("{section}.{name}");
        if let Some(limit) = &target.rate_limit {
            self.rate_limit(limit, &key("rate_limit"));
        }
        let share = (0.0..1.0).contains(&target.live_share);
        self.require(share, &key("live_share"), "must be at least 0.0 and below 1.0, or backfill never ends");
        self.require_or_mend(
            target.doubt_after >= target.timeout,
            &key("doubt_after"),
            format!(
                "must not be shorter than timeout ({}): until then a lost request may still take effect",
                span(target.timeout)
            ),
            Some(format!("raise it to {} or more", span(target.timeout))),
        );
        self.retry(&target.retry, &key("retry"));
        self.breaker(&target.breaker, &key("breaker"));
    }

    fn dispositions(&mut self, target: &Target, key: &str) {
        for (answer, reason) in target.dispositions.nonsense(target.adapter.kind()) {
            self.require(false, &format!("{key}.{answer}"), reason);
        }
    }

    fn target_url(&mut self, target: &Target, key: &str) {
        let Some(text) = &target.url else { return };
        let example = "expected http://host/path or https://host/path";
        match Url::parse(text) {
            Err(error) => self.require(false, key, format!("is not a URL ({error}); {example}")),
            Ok(url) => {
                let web = matches!(url.scheme(), "http" | "https") && url.has_host();
                self.require(web, key, format!("is not a web address; {example}"));
                self.require_or_mend(
                    url.username().is_empty() && url.password().is_none(),
                    key,
                    "must not hold credentials: it is logged",
                    Some("use `bearer_token`, `api_key` or `headers`".to_owned()),
                );
                self.require(url.fragment().is_none(), key, "must not have a fragment (`#...`)");
            }
        }
    }

    fn retry(&mut self, retry: &Retry, key: &str) {
        let key = |name: &str| format!("{key}.{name}");
        self.at_least_one(retry.attempts, &key("attempts"));
        let delays = retry.attempts <= 1 || !retry.delays.is_empty();
        self.require(delays, &key("delays"), "more than one attempt needs a delay between them");
        self.share(retry.jitter, &key("jitter"));
        let schedule = !retry.schedule.is_empty() && retry.schedule.iter().all(|pause| !pause.is_zero());
        self.require(schedule, &key("schedule"), "needs one pause or more, each longer than 0");
        self.share(retry.schedule_jitter, &key("schedule_jitter"));
        self.some_time(retry.horizon, &key("horizon"));
        self.at_least_one(retry.bounded_attempts, &key("bounded_attempts"));
        self.at_least_one(retry.permanent_attempts, &key("permanent_attempts"));
    }

    fn breaker(&mut self, breaker: &Breaker, key: &str) {
        let key = |name: &str| format!("{key}.{name}");
        let share = breaker.failing_share > 0.0 && breaker.failing_share <= 1.0;
        self.require(share, &key("failing_share"), "must be above 0.0 and at most 1.0");
        self.at_least_one(breaker.calls_min, &key("calls_min"));
        self.some_time(breaker.window, &key("window"));
        self.some_time(breaker.pause_min, &key("pause_min"));
        self.require(
            breaker.pause_max >= breaker.pause_min,
            &key("pause_max"),
            format!("must not be shorter than pause_min ({})", span(breaker.pause_min)),
        );
        self.some_time(breaker.fold_after, &key("fold_after"));
    }

    fn share(&mut self, share: f64, key: &str) {
        self.require((0.0..=1.0).contains(&share), key, "must be between 0.0 and 1.0");
    }

    fn headers(&mut self, target: &Target, key: &str) {
        for (name, value) in &target.headers {
            let key = format!("{key}.{name}");
            self.header_name(name, &key);
            let sendable = value.expose().chars().all(|c| c == '\t' || (' '..='~').contains(&c));
            self.require(sendable, &key, "holds characters a header cannot carry");
        }
    }

    fn header_name(&mut self, name: &str, key: &str) {
        const OURS: [&str; 8] = [
            "content-length",
            "content-type",
            "host",
            "idempotency-key",
            "transfer-encoding",
            "user-agent",
            "webhook-id",
            "webhook-signature",
        ];
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        self.require(!name.is_empty() && name.chars().all(token), key, "is not a header's name");
        let ours = OURS.contains(&name.to_ascii_lowercase().as_str());
        self.require(!ours, key, "is set by Postbound itself");
    }

    fn credentials(&mut self, target: &Target, section: &str) {
        let key = |name: &str| format!("{section}.{name}");
        let has_password = target.basic_password.is_some() || target.basic_password_file.is_some();
        self.one_source(target.basic_password.is_some(), &target.basic_password_file, &key("basic_password"));
        self.require(
            has_password == target.basic_user.is_some(),
            &key("basic_user"),
            "basic_user and basic_password need each other",
        );
        let sendable = target.basic_user.as_ref().is_none_or(|user| !user.contains(':'));
        self.require(sendable, &key("basic_user"), "must not hold a colon");
        let has_token = target.bearer_token.is_some() || target.bearer_token_file.is_some();
        self.require(
            !(has_password && has_token),
            &key("basic_user"),
            "a request has one `Authorization`: give basic_user or bearer_token, not both",
        );
        self.require(
            target.client_cert_file.is_some() == target.client_key_file.is_some(),
            &key("client_cert_file"),
            "client_cert_file and client_key_file need each other",
        );
    }

    fn webhook(&mut self, target: &Target, webhook: &Webhook, section: &str) {
        let key = |name: &str| format!("{section}.{name}");
        self.header_name(&webhook.api_key_header, &key("api_key_header"));
        for name in webhook.header_templates.keys() {
            self.header_name(name, &key(&format!("header_templates.{name}")));
        }
        if let Some(pointer) = &webhook.external_id {
            self.pointer(pointer, &key("external_id"));
        }
        self.require(!webhook.event_source.is_empty(), &key("event_source"), "must not be empty");
        for network in &webhook.allow_addresses {
            let readable = network.parse::<IpNet>().is_ok();
            let problem = "is not a network; expected such as 10.20.0.0/16, 10.1.2.3/32 or fd00:1::/32";
            self.require(readable, &key("allow_addresses"), format!("\"{network}\" {problem}"));
        }
        let is_plain = target.url.as_deref().is_some_and(|url| url.starts_with("http://"));
        self.require_or_mend(
            !is_plain || webhook.reaches_inside(),
            &key("url"),
            "a webhook to public addresses needs https",
            Some("write https://, or allow_addresses for one of your own networks".to_owned()),
        );
    }

    fn workflow(&mut self, workflow: &WorkflowTrigger, section: &str) {
        self.require(!workflow.trigger.is_empty(), &format!("{section}.trigger"), "must not be empty");
        for (system, pointer) in &workflow.links {
            let key = format!("{section}.links.{system}");
            let named = (1..=40).contains(&system.len())
                && system.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            self.require(named, &key, "a system's name is letters, digits, `-` and `_`, at most 40");
            self.pointer(pointer, &key);
        }
    }

    fn pointer(&mut self, pointer: &str, key: &str) {
        self.require(
            pointer.starts_with('/'),
            key,
            "is not a JSON pointer; expected such as /id or /data/user/id",
        );
    }
}

fn is_target_name(name: &str) -> bool {
    name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
