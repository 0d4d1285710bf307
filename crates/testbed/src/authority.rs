//! A certificate authority of one run, and what it signs.

use std::path::Path;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use serde::{Deserialize, Serialize};

use crate::launch::Account;

/// A certificate authority that both servers trust, for as long as they live.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Authority {
    name: String,
    certificate: String,
    key: String,
}

/// A certificate and its private key, PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its key, PKCS 8.
    pub key: String,
}

/// What a certificate is to say.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A server reached by these host names and IP addresses.
    Server(&'a [&'a str]),
    /// The same, but it expired years ago.
    ExpiredServer(&'a [&'a str]),
    /// A client of this name.
    Client(&'a str),
}

impl Authority {
    /// A new authority of the given name; two authorities that are to be told apart need two names.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = authority_params(name).self_signed(&key)?.pem();
        Ok(Self { name: name.to_owned(), certificate, key: key.serialize_pem() })
    }

    /// Its own certificate, PEM: what whoever trusts it has to know.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a new certificate.
    ///
    /// # Errors
    /// If a host name is none.
    pub fn issue(&self, subject: Subject<'_>) -> Result<Certificate> {
        let (name, hosts, usage) = match subject {
            Subject::Server(hosts) | Subject::ExpiredServer(hosts) => {
                ("server", hosts, ExtendedKeyUsagePurpose::ServerAuth)
            }
            Subject::Client(name) => (name, [].as_slice(), ExtendedKeyUsagePurpose::ClientAuth),
        };
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name = named(name);
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        if let Subject::ExpiredServer(_) = subject {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(authority_params(&self.name), KeyPair::from_pem(&self.key)?);
        Ok(Certificate { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
    }

    /// Writes what a server on loopback needs into its folder: `server.crt`, `server.key` and `root.crt`.
    pub(crate) fn equip(&self, folder: &Path, account: Option<Account>) -> Result<()> {
        let server = self.issue(Subject::Server(&["localhost", "127.0.0.1"]))?;
        for (name, text) in [
            ("server.crt", &server.certificate),
            ("server.key", &server.key),
            ("root.crt", &self.certificate),
        ] {
            let path = folder.join(name);
            write_private(&path, text)?;
            if let Some(account) = account {
                std::os::unix::fs::chown(&path, Some(account.uid), Some(account.gid))?;
            }
        }
        Ok(())
    }
}

impl Certificate {
    /// Writes certificate and key into a folder as `<name>.crt` and `<name>.key`.
    ///
    /// # Errors
    /// If a file is there already or cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        write_private(&folder.join(format!("{name}.crt")), &self.certificate)?;
        write_private(&folder.join(format!("{name}.key")), &self.key)
    }
}

/// The same every time, so that an authority can sign in any process that has its name and key.
fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// PostgreSQL refuses a key that others may read.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
