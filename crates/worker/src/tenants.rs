use postbound_store::{Store, StoreError, within};
use postbound_target::TenantInfo;
use std::{collections::HashMap, time::Duration};
use tokio::{sync::Mutex, time::Instant};

/// How long asking may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How old what we know of a tenant may be.
const FRESH: Duration = Duration::from_secs(30);
/// Tenants remembered at most; beyond it all are forgotten and asked for again.
const TENANTS_MAX: usize = 10_000;

/// What targets want to know of tenants, remembered for half a minute.
pub(crate) struct Tenants {
    store: Store,
    known: Mutex<HashMap<String, (TenantInfo, Instant)>>,
}

impl Tenants {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// A tenant, by its id alone where the table has no row of it.
    pub(crate) async fn get(&self, id: &str) -> Result<TenantInfo, StoreError> {
        let now = Instant::now();
        if let Some((tenant, at)) = self.known.lock().await.get(id)
            && now < *at + FRESH
        {
            return Ok(tenant.clone());
        }
        let found = match within(LOOK_TIMEOUT, self.store.tenants(&[id])).await {
            Ok(mut found) => found.pop(),
            // What was known a while ago is better than nothing, and a delivery is not held up for a name.
            Err(error) => {
                return self.known.lock().await.get(id).map(|(tenant, _)| tenant.clone()).ok_or(error);
            }
        };
        let tenant = found.map_or_else(
            || TenantInfo::unknown(id),
            |row| TenantInfo {
                id: row.id,
                name: row.name,
                subdomain: row.subdomain,
                kinde_org_id: row.kinde_org_id,
            },
        );
        let mut known = self.known.lock().await;
        if known.len() >= TENANTS_MAX {
            known.clear();
        }
        known.insert(id.to_owned(), (tenant.clone(), now));
        Ok(tenant)
    }
}
