//! How errors of Postgres are told: with what mends a connection that failed for TLS or its files, or a login without
//! the right role.

use crate::StoreError;
use postbound_tls::{Fault, tls_error};
use rustls::Error;
use std::io;

/// sqlx passes over parameters it does not know: with `ssl_mode=verify-full` nothing would be verified.
pub(crate) fn check_parameters(url: &str) -> Result<(), StoreError> {
    const KNOWN: [&str; 9] = [
        "sslmode",
        "ssl-mode",
        "sslrootcert",
        "ssl-root-cert",
        "ssl-ca",
        "sslcert",
        "ssl-cert",
        "sslkey",
        "ssl-key",
    ];
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let mut keys = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(key, _)| key));
    match keys.all(|key| KNOWN.contains(&key) || !key.to_ascii_lowercase().starts_with("ssl")) {
        true => Ok(()),
        false => Err(StoreError::Url(
            "has a parameter for TLS that is not known; there are sslmode, sslrootcert, sslcert and sslkey",
        )),
    }
}

/// The error as it is told: with what to do about it, where that is known.
pub(crate) fn told(error: &sqlx::Error) -> String {
    let mend = match error {
        sqlx::Error::Io(io) => match tls_error(io) {
            Some(tls) => mend(tls),
            None => file_mend(io.kind()),
        },
        sqlx::Error::Tls(tls) => tls
            .downcast_ref::<Error>()
            .map(mend)
            .unwrap_or(Some("see sslmode and sslrootcert in database.url")),
        sqlx::Error::Database(db) => match db.code().as_deref() {
            Some("28000") => {
                db.message().contains("certificate").then_some("see sslcert and sslkey in database.url")
            }
            Some("42501") => Some(
                "the login needs postbound_relay for the relay, postbound_worker for workers, postbound_operator for \
                 commands, postbound_viewer for those that only look",
            ),
            _ => None,
        },
        _ => None,
    };
    let said = match error {
        // sqlx adds the line of PostgreSQL's own source that refused.
        sqlx::Error::Database(db) => format!("error returned from database: {}", db.message()),
        _ => error.to_string(),
    };
    mend.map_or_else(|| said.clone(), |mend| format!("{said}; {mend}"))
}

/// TCP gives none of these; the files of TLS do, and sqlx does not say which.
fn file_mend(kind: io::ErrorKind) -> Option<&'static str> {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
    matches!(kind, NotFound | PermissionDenied | IsADirectory | NotADirectory)
        .then_some("a file that database.url names cannot be read: sslrootcert, sslcert or sslkey")
}

fn mend(error: &Error) -> Option<&'static str> {
    Some(match Fault::from(error) {
        Fault::UnknownAuthority => {
            "set sslrootcert in database.url to the certificate of the authority that signed Postgres' own"
        }
        Fault::NotValidNow => "renew Postgres' certificate, or correct this machine's clock",
        Fault::OtherHost => "name the host in database.url as Postgres' certificate does",
        Fault::ServerCertificate => "give Postgres another certificate",
        Fault::ClientCertificate => {
            "Postgres wants a client certificate it trusts: sslcert and sslkey in database.url"
        }
        Fault::ClientKey => "sslkey in database.url does not belong to sslcert",
        Fault::NotTls | Fault::Other => return None,
    })
}
