//! Clerk's public keys: fetched when they are needed, kept, and fetched again when a token names one that is not known.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use postbound_config::IngressDirectory;
use reqwest::Client;

use super::clerk_api::read;
use crate::IngressError;

/// A token with an unknown key makes us look for it at most this often: anybody can make such tokens.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often we try while we have no key at all.
const TRY_EVERY: Duration = Duration::from_secs(2);
/// Known keys are fetched anew this often, so that a revoked one goes.
const REFRESH_AFTER: Duration = Duration::from_secs(3600);
/// Longest key set read.
const SET_BYTES_MAX: usize = 64 << 10;
/// Most keys of a set that are kept.
const KEYS_MAX: usize = 32;

/// The keys.
pub(crate) struct ClerkKeys {
    source: Source,
    cache: Arc<Mutex<Cache>>,
}

/// Why a key is not there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The set does not hold it.
    Unknown,
    /// There is no set yet, and it cannot be had at the moment.
    Unavailable,
}

#[derive(Clone)]
enum Source {
    Url(Client, String),
    File(PathBuf),
    /// One key, whatever a token calls it.
    Fixed(Arc<DecodingKey>),
}

#[derive(Default)]
struct Cache {
    keys: HashMap<String, Arc<DecodingKey>>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
    /// The fetch under way, for all who wait for it.
    fetching: Option<Shared<BoxFuture<'static, ()>>>,
}

impl ClerkKeys {
    /// None where none are configured.
    pub(crate) fn new(settings: &IngressDirectory, http: &Client) -> Result<Option<Self>, IngressError> {
        let setting =
            |name: &str, problem: String| IngressError::Setting { key: format!("directory.{name}"), problem };
        let source = if let Some(url) = &settings.clerk_jwks_url {
            Source::Url(http.clone(), url.clone())
        } else if let Some(path) = &settings.clerk_jwks_file {
            read_file(path).map_err(|problem| setting("clerk_jwks_file", problem))?;
            Source::File(path.clone())
        } else if let Some(path) = &settings.clerk_key_file {
            let problem = |problem: String| setting("clerk_key_file", problem);
            let pem = std::fs::read(path).map_err(|error| problem(format!("cannot read it: {error}")))?;
            let key = DecodingKey::from_rsa_pem(&pem)
                .map_err(|error| problem(format!("it is no RSA public key in PEM: {error}")))?;
            Source::Fixed(Arc::new(key))
        } else {
            return Ok(None);
        };
        Ok(Some(Self { source, cache: Arc::default() }))
    }

    /// The key of that name. Waits for a fetch, if one is due.
    pub(crate) async fn key(&self, kid: Option<&str>) -> Result<Arc<DecodingKey>, NoKey> {
        if let Source::Fixed(key) = &self.source {
            return Ok(Arc::clone(key));
        }
        let kid = kid.ok_or(NoKey::Unknown)?;
        let fetching = {
            let mut cache = lock(&self.cache);
            let is_fresh = cache.fetched.is_some_and(|at| at.elapsed() < REFRESH_AFTER);
            if is_fresh && let Some(key) = cache.keys.get(kid) {
                return Ok(Arc::clone(key));
            }
            self.fetch(&mut cache)
        };
        if let Some(fetching) = fetching {
            fetching.await;
        }
        let cache = lock(&self.cache);
        match cache.keys.get(kid) {
            Some(key) => Ok(Arc::clone(key)),
            None if cache.fetched.is_some() => Err(NoKey::Unknown),
            None => Err(NoKey::Unavailable),
        }
    }

    /// The fetch under way, or a new one if one is due.
    fn fetch(&self, cache: &mut Cache) -> Option<Shared<BoxFuture<'static, ()>>> {
        if let Some(fetching) = &cache.fetching {
            return Some(fetching.clone());
        }
        let pause = if cache.fetched.is_some() { LOOK_EVERY } else { TRY_EVERY };
        if cache.tried.is_some_and(|at| at.elapsed() < pause) {
            return None;
        }
        cache.tried = Some(Instant::now());
        let (source, shared) = (self.source.clone(), Arc::clone(&self.cache));
        let fetching = async move {
            let fetched = source.read().await;
            let mut cache = lock(&shared);
            cache.fetching = None;
            match fetched {
                Ok(keys) => {
                    tracing::info!(keys = keys.len(), "ingress.clerk_keys.fetched");
                    cache.keys = keys;
                    cache.fetched = Some(Instant::now());
                }
                // Those we have are still used: Clerk being away must not sign everybody out.
                Err(problem) => tracing::warn!(%problem, "ingress.clerk_keys.not_fetched"),
            }
        };
        let fetching = fetching.boxed().shared();
        cache.fetching = Some(fetching.clone());
        Some(fetching)
    }
}

impl Source {
    async fn read(&self) -> Result<HashMap<String, Arc<DecodingKey>>, String> {
        match self {
            Self::Url(http, url) => {
                let answer = http.get(url).send().await.map_err(|error| error.without_url().to_string())?;
                if !answer.status().is_success() {
                    return Err(format!("status {}", answer.status()));
                }
                keys_of(&read(answer, SET_BYTES_MAX).await?)
            }
            Self::File(path) => read_file(path),
            Self::Fixed(_) => Ok(HashMap::new()),
        }
    }
}

fn read_file(path: &PathBuf) -> Result<HashMap<String, Arc<DecodingKey>>, String> {
    keys_of(&std::fs::read(path).map_err(|error| format!("cannot read it: {error}"))?)
}

/// The keys that may sign session tokens: RSA, named, for signatures, RS256 or unsaid.
fn keys_of(set: &[u8]) -> Result<HashMap<String, Arc<DecodingKey>>, String> {
    let set: JwkSet = serde_json::from_slice(set).map_err(|error| format!("it is no key set: {error}"))?;
    let usable = |key: &Jwk| {
        matches!(key.algorithm, AlgorithmParameters::RSA(_))
            && matches!(key.common.key_algorithm, None | Some(KeyAlgorithm::RS256))
            && matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature))
    };
    let named = |key: &Jwk| {
        let name = key.common.key_id.clone().filter(|name| !name.is_empty())?;
        Some((name, Arc::new(DecodingKey::from_jwk(key).ok()?)))
    };
    let keys: HashMap<_, _> =
        set.keys.iter().filter(|key| usable(key)).filter_map(named).take(KEYS_MAX).collect();
    if keys.is_empty() { Err("it holds no RSA key for RS256 signatures".to_owned()) } else { Ok(keys) }
}

fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl ClerkKeys {
    /// As if the last look were a minute ago.
    pub(crate) fn pass_a_minute(&self) {
        let mut cache = lock(&self.cache);
        cache.tried = cache.tried.and_then(|at| at.checked_sub(LOOK_EVERY));
    }
}
