use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use postbound_config::{IngressSource, SecretList};

use super::bounds::WAITING_MAX;
use crate::problem::Problem;
use crate::rate_limit::RateLimiter;
use crate::{IngressError, webhooks::verify};

/// A configured source, ready to be served.
pub(crate) struct Source {
    pub(crate) settings: IngressSource,
    pub(super) secrets: SecretList,
    limiter: Option<RateLimiter>,
    /// Changes that wait for their users, as last counted, and what came since.
    waiting: AtomicI64,
}

impl Source {
    /// Reads the secrets once, so that one that is none stops the start.
    pub(crate) fn new(settings: &IngressSource) -> Result<Self, IngressError> {
        let key = || format!("sources.{}.signing_secrets", settings.name);
        let missing = || IngressError::Setting { key: key(), problem: "is required".to_owned() };
        let secrets = settings.signing_secrets().ok_or_else(missing)?;
        let current = secrets.current().map_err(|error| IngressError::Secret { key: key(), error })?;
        verify::check_secrets(settings, &current)
            .map_err(|problem| IngressError::Setting { key: key(), problem })?;
        let limiter = settings.rate_limit.map(RateLimiter::new);
        Ok(Self { settings: settings.clone(), secrets, limiter, waiting: AtomicI64::new(0) })
    }

    /// The key of its section.
    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// Counts one more change that waits; false: there is no room for it.
    pub(super) fn lets_one_more_wait(&self) -> bool {
        self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX
    }

    /// So many changes wait, those of other processes included.
    pub(super) fn set_waiting(&self, count: i64) {
        self.waiting.store(count, Ordering::Relaxed);
    }

    /// Counts one request, or refuses it (429).
    pub(super) fn admit(&self) -> Result<(), Problem> {
        match &self.limiter {
            Some(limiter) => limiter.admit(Instant::now()).map_err(Problem::rate_limited),
            None => Ok(()),
        }
    }
}
