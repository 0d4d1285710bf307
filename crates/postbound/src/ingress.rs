use crate::{
    args::Common,
    exit::{Exit, failed},
    roles,
    shutdown::run_until_stopped,
};
use postbound_ingress::{Ingress, serve};
use postbound_telemetry::Health;
use std::{sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// `postbound ingress`
pub(crate) async fn run(common: &Common) -> Result<Exit, Exit> {
    let config = roles::configuration(common)?;
    roles::start_logging(&config)?;
    let store = roles::awaited_store(&config, roles::INGRESS).await?;
    let ingress = Ingress::new(store, config.ingress.clone()).map_err(failed)?;
    let listen = config.ingress.listen;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Exit::failed(format!("ingress.listen: cannot listen on {listen}: {error}")))?;
    tracing::info!(address = %listener.local_addr().map_err(failed)?, "ingress listening");
    let (health, stop) = (Health::new(), CancellationToken::new());
    let component = health.component("ingress");
    roles::serve_telemetry(&config, &health, &stop.child_token()).await?;
    // Requests are given the time they may take, and a little to be answered in.
    let deadline = config.ingress.request_timeout + Duration::from_secs(2);
    run_until_stopped(stop.clone(), deadline, serve(listener, Arc::new(ingress), component, stop.clone()))
        .await?;
    Ok(Exit::Done)
}
