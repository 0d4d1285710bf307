//! What is wrong when a TLS handshake fails. `broker` and `store` say what mends it, each in the names of its own
//! settings. It knows neither of the two, and opens no connection.

use rustls::{AlertDescription as Alert, CertificateError as Invalid, Error};
use std::io;

/// Why a handshake failed, as far as somebody can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No trusted authority signed the server's certificate.
    UnknownAuthority,
    /// The server's certificate is not valid at this time, by this machine's clock.
    NotValidNow,
    /// The server's certificate is for another host.
    OtherHost,
    /// The server's certificate is unusable for another reason.
    ServerCertificate,
    /// The server refused our certificate, or wants one.
    ClientCertificate,
    /// Our key does not belong to our certificate.
    ClientKey,
    /// The server does not speak TLS.
    NotTls,
    /// Anything else.
    Other,
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(invalid) => match invalid {
                Invalid::UnknownIssuer | Invalid::BadSignature => Self::UnknownAuthority,
                Invalid::Expired
                | Invalid::ExpiredContext { .. }
                | Invalid::NotValidYet
                | Invalid::NotValidYetContext { .. } => Self::NotValidNow,
                Invalid::NotValidForName | Invalid::NotValidForNameContext { .. } => Self::OtherHost,
                _ => Self::ServerCertificate,
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
            ) => Self::ClientCertificate,
            Error::InconsistentKeys(_) => Self::ClientKey,
            Error::InvalidMessage(_) => Self::NotTls,
            _ => Self::Other,
        }
    }
}

/// The error of TLS behind one of IO, if there is one. `io::Error` wraps it, at times more than once.
pub fn tls_error(error: &io::Error) -> Option<&Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref::<Error>().or_else(|| inner.downcast_ref::<io::Error>().and_then(tls_error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_found_behind_wrapped_errors() {
        let tls = Error::InvalidCertificate(Invalid::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::other(tls));
        assert_eq!(tls_error(&wrapped).map(Fault::from), Some(Fault::UnknownAuthority));
        assert!(tls_error(&io::ErrorKind::ConnectionRefused.into()).is_none());
    }
}
