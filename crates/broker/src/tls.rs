//! TLS to RabbitMQ: which certificates count, and what mends a handshake that failed.

use crate::BrokerError;
use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::{
    AlertDescription as Alert, CertificateError as Invalid, Error,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    io,
    path::{Path, PathBuf},
};

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

/// The error of TLS behind one of IO, if there is one. `io::Error` wraps it, at times more than once.
pub(crate) fn tls_error(error: &io::Error) -> Option<&Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref::<Error>().or_else(|| inner.downcast_ref::<io::Error>().and_then(tls_error))
}

/// What to do about a handshake that failed.
pub(crate) fn mend(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(invalid) => match invalid {
            Invalid::UnknownIssuer | Invalid::BadSignature => {
                "set broker.ca_file to the certificate of the authority that signed RabbitMQ's"
            }
            Invalid::Expired
            | Invalid::ExpiredContext { .. }
            | Invalid::NotValidYet
            | Invalid::NotValidYetContext { .. } => {
                "renew RabbitMQ's certificate, or correct this machine's clock"
            }
            Invalid::NotValidForName | Invalid::NotValidForNameContext { .. } => {
                "name the host in broker.url as RabbitMQ's certificate does"
            }
            _ => "give RabbitMQ another certificate",
        },
        Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::HandshakeFailure,
        ) => "RabbitMQ wants a client certificate it trusts: broker.client_cert_file, broker.client_key_file",
        Error::InvalidMessage(_) => "use amqp:// in broker.url, or RabbitMQ's port for TLS (5671 by default)",
        _ => "see RabbitMQ's log",
    }
}
