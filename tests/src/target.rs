use crate::{eventually, options::API_KEY};
use postbound_receiver::{Contract, Fault, FaultAnswer, Mode, ReceiverConfig, serve};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// A reference receiver of one contract, served by the test itself.
pub struct TestTarget {
    address: SocketAddr,
    config: ReceiverConfig,
    http: reqwest::Client,
    running: Option<(JoinHandle<()>, CancellationToken)>,
}

impl TestTarget {
    pub(crate) async fn start(
        database_url: String,
        contract: Contract,
        mode: Mode,
        http: &reqwest::Client,
    ) -> Self {
        // The backend's workflow is the backend's, too.
        let contracts = match contract {
            Contract::S2 => vec![Contract::S0, Contract::S2],
            other => vec![other],
        };
        let config = ReceiverConfig {
            contracts,
            mode,
            api_key: Some(API_KEY.to_owned()),
            backend_api_key: Some(API_KEY.to_owned()),
            rate_limit: None,
            faults: true,
            pool_size: 8,
            ..ReceiverConfig::new(database_url)
        };
        let mut target =
            Self { address: ([127, 0, 0, 1], 0).into(), config, http: http.clone(), running: None };
        target.start_again().await;
        target
    }

    /// Serves on the address it had before, if it had one.
    ///
    /// # Panics
    /// When the address is taken.
    pub async fn start_again(&mut self) {
        // While it was closed, a connection of somebody else's may have been given the port.
        let bind = async || TcpListener::bind(self.address).await.ok();
        let listener = eventually("its address is free", Duration::from_secs(30), bind).await;
        self.address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = serve(listener, self.config.clone(), stop.clone());
        let task = tokio::spawn(async move { serving.await.unwrap() });
        self.running = Some((task, stop));
        // Connections wait in the listener until the schema is there.
        eventually("the receiver answers", Duration::from_secs(30), async || {
            self.http.get(self.url("healthz")).send().await.ok().map(drop)
        })
        .await;
    }

    /// Stops serving: connections are refused from then on.
    ///
    /// # Panics
    /// When it runs no longer.
    pub async fn stop(&mut self) {
        let (task, stop) = self.running.take().expect("it runs no longer");
        stop.cancel();
        task.await.unwrap();
    }

    /// Serves with other settings from now on, at the same address.
    pub async fn serve_with(&mut self, change: impl FnOnce(&mut ReceiverConfig)) {
        change(&mut self.config);
        self.stop().await;
        self.start_again().await;
    }

    /// Where it serves.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Another key from now on.
    pub async fn expect_key(&mut self, key: &str) {
        self.config.api_key = Some(key.to_owned());
        self.config.backend_api_key = Some(key.to_owned());
        self.stop().await;
        self.start_again().await;
    }

    /// Misbehaves so from now on.
    ///
    /// # Panics
    /// When the receiver does not answer.
    pub async fn fault(&self, fault: Fault) {
        let mut fault = serde_json::to_value(fault).unwrap();
        // Shown by the receiver, not taken by it.
        fault.as_object_mut().unwrap().remove("hits");
        let answer = self.http.put(self.url("_faults")).json(&[fault]).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// Behaves again.
    ///
    /// # Panics
    /// When the receiver does not answer.
    pub async fn behave(&self) {
        self.http.delete(self.url("_faults")).send().await.unwrap();
    }

    /// How often the fault was used.
    ///
    /// # Panics
    /// When the receiver does not answer.
    pub async fn fault_hits(&self) -> u64 {
        let faults: Vec<BTreeMap<String, serde_json::Value>> =
            self.http.get(self.url("_faults")).send().await.unwrap().json().await.unwrap();
        faults.iter().filter_map(|fault| fault.get("hits")?.as_u64()).sum()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

impl Drop for TestTarget {
    fn drop(&mut self) {
        if let Some((_, stop)) = self.running.take() {
            stop.cancel();
        }
    }
}

/// A fault: every request is answered like this.
#[must_use]
pub fn answers(status: u16, headers: &[(&str, &str)]) -> Fault {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault { respond: Some(FaultAnswer { status, headers, body: String::new() }), ..Fault::default() }
}
