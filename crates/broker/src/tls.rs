//! TLS to RabbitMQ: which certificates count, and what mends a handshake that failed.

use crate::BrokerError;
use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use postbound_tls::Fault;
use rustls::{
    Error,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::path::{Path, PathBuf};

const CA: &str = "broker.ca_file";
const CERTIFICATE: &str = "broker.client_cert_file";
const KEY: &str = "broker.client_key_file";

/// The files to read at each connect: certificates are renewed while we run.
#[derive(Clone)]
pub(crate) struct TlsFiles {
    /// Authorities to trust instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// Client certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// Reads the files. Blocks.
    pub(crate) fn connector(&self) -> Result<RustlsConnector, BrokerError> {
        let roots = match &self.ca {
            Some(path) => {
                RustlsConnectorConfig::default().with_parsable_certificates(certificates(CA, path)?)
            }
            None => RustlsConnectorConfig::new_with_native_certs().map_err(|error| BrokerError::Tls {
                what: format!("this system's certificate authorities cannot be read: {error}"),
                mend: "install ca-certificates, or set broker.ca_file",
            })?,
        };
        match &self.identity {
            Some((certificate, key)) => {
                let chain = certificates(CERTIFICATE, certificate)?;
                let key = PrivateKeyDer::from_pem_slice(&read(KEY, key)?)
                    .map_err(|error| unusable(KEY, key, &error))?;
                let connector = roots.connector_with_single_cert(chain, key);
                connector.map_err(|error| unusable(CERTIFICATE, certificate, &format!("with {KEY}: {error}")))
            }
            None => roots.connector_with_no_client_auth().map_err(|error| match &self.ca {
                Some(path) => unusable(CA, path, &error),
                None => BrokerError::Amqp(error.to_string()),
            }),
        }
    }
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let pem = read(setting, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| unusable(setting, path, &error))?;
    if certificates.is_empty() {
        return Err(unusable(setting, path, &"there is no PEM certificate in it"));
    }
    Ok(certificates)
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, BrokerError> {
    std::fs::read(path).map_err(|error| unusable(setting, path, &error))
}

fn unusable(setting: &'static str, path: &Path, why: &impl ToString) -> BrokerError {
    BrokerError::Certificate { setting, path: path.to_owned(), why: why.to_string() }
}

/// What to do about a handshake that failed.
pub(crate) fn mend(error: &Error) -> &'static str {
    match Fault::from(error) {
        Fault::UnknownAuthority => {
            "set broker.ca_file to the certificate of the authority that signed RabbitMQ's"
        }
        Fault::NotValidNow => "renew RabbitMQ's certificate, or correct this machine's clock",
        Fault::OtherHost => "name the host in broker.url as RabbitMQ's certificate does",
        Fault::ServerCertificate => "give RabbitMQ another certificate",
        Fault::ClientCertificate => {
            "RabbitMQ wants a client certificate it trusts: broker.client_cert_file, broker.client_key_file"
        }
        Fault::ClientKey => "broker.client_key_file does not belong to broker.client_cert_file",
        Fault::NotTls => "use amqp:// in broker.url, or RabbitMQ's port for TLS (5671 by default)",
        Fault::Other => "see RabbitMQ's log",
    }
}
