use std::sync::Arc;

use postbound_config::SecretError;
use postbound_store::Store;
use sqlx::PgPool;

use crate::IngressSettings;
use crate::auth::Tokens;
use crate::directory::DirectoryAccess;
use crate::webhooks::Source;

/// What all routes share.
pub struct Ingress {
    /// Postgres, as the role `postbound_ingress`.
    pub(crate) pool: PgPool,
    /// The same, for what other parts of Postbound do as well.
    pub(crate) store: Store,
    /// The section `[ingress]`.
    pub(crate) settings: IngressSettings,
    /// Who may call.
    pub(crate) tokens: Tokens,
    /// Whose webhooks are taken.
    pub(crate) sources: Vec<Arc<Source>>,
    /// Who may call the directory beside them.
    pub(crate) directory: DirectoryAccess,
}

impl Ingress {
    /// Opens every secret once, so that a missing file is told at the start.
    ///
    /// # Errors
    /// A secret's file that cannot be used.
    pub fn new(store: Store, settings: IngressSettings) -> Result<Self, IngressError> {
        let tokens = Tokens::new(&settings.tokens)?;
        let sources = settings.sources.values().map(|source| Source::new(source).map(Arc::new));
        let sources = sources.collect::<Result<_, _>>()?;
        let directory = DirectoryAccess::new(&settings.directory)?;
        Ok(Self { pool: store.pool().clone(), store, settings, tokens, sources, directory })
    }
}

/// Why the ingress does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// A secret cannot be read.
    #[error("ingress.{key}: {error}")]
    Secret {
        /// The key in `[ingress]`.
        key: String,
        /// Why.
        error: SecretError,
    },
    /// A secret that is none.
    #[error("ingress.{key}: {problem}")]
    Setting {
        /// The key in `[ingress]`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}
