//! A new target is a few lines of configuration.

use super::hook::Hook;
use super::{HURRIED, Town};
use postbound_testbed::{Endpoints, Subject};
use postbound_tests::Role;
use serde_json::json;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_of_a_template_needs_no_rust_and_its_ids_are_linked() {
    let hook = Hook::start(
        |request| json!({ "contact": { "id": format!("c-{}", request["ref"].as_str().unwrap()) } }),
    )
    .await;
    let town = Town::start("hub", |_| {
        format!(
            "adapter = \"webhook\"\nurl = \"{}\"\nallow_private_addresses = true\nexternal_id = \"/contact/id\"\n\
             basic_user = \"me\"\nbasic_password = \"pass\"\napi_key = \"the-key\"\napi_key_header = \"X-Hub-Key\"\n\
             header_templates = {{ \"X-Tenant\" = \"{{{{/tenant/id}}}}\" }}\n\
             body = '''{{\"ref\": \"{{{{/user}}}}\", \"properties\": {{\"email\": \"{{{{/data/email}}}}\", \
             \"phone\": \"{{{{/data/phone?}}}}\", \"deleted\": \"{{{{/action}}}}\"}}}}'''\n{HURRIED}",
            hook.url()
        )
    })
    .await;
    town.emit("t0", "u\"1", "created", r#"{"email": "a\"b@example.com", "password": "no"}"#).await;
    town.installation.until_settled(&["hub"]).await;
    let [request] = &hook.taken()[..] else { panic!("{:?}", hook.asked()) };
    let expected =
        json!({ "ref": "u\"1", "properties": { "email": "a\"b@example.com", "deleted": "created" } });
    assert_eq!(request.json(), expected);
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!((request.header("x-tenant"), request.header("x-hub-key")), ("t0", "the-key"));
    assert_eq!(request.header("authorization"), "Basic bWU6cGFzcw==");
    let link = "select external_id from postbound.identity_link where target = 'hub' and user_id = 'u\"1'";
    assert_eq!(town.ask(link).await, "c-u\"1");

    // A template that points at nothing is told before anything runs.
    let broken = [("targets.hub.body", r#"{"a": "{{/usr}}"}"#)];
    let checked = town.installation.run_with(Role::Operator, &["config", "check"], &broken).await;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(3), "{said}");
    assert!(said.contains("targets.hub.body") && said.contains("pointers begin with /id"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_asks_for_a_certificate_is_shown_one() {
    let endpoints = Endpoints::from_env().unwrap();
    let authority = &endpoints.authority;
    let folder = tempfile::tempdir().unwrap();
    authority.issue(Subject::Client("postbound")).unwrap().write(folder.path(), "client").unwrap();
    authority.issue(Subject::Server(&["localhost"])).unwrap().write(folder.path(), "server").unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("ca.crt"), authority.certificate()).unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.crt")).unwrap()).unwrap();
    let config = ServerConfig::builder()
        .with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        .with_single_cert(
            CertificateDer::pem_file_iter(file("server.crt")).unwrap().map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_file(file("server.key")).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            // Who shows no certificate gets no further.
            let Ok(mut stream) = acceptor.accept(connection).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    let town = Town::start("vault", |_| {
        format!(
            "adapter = \"webhook\"\nurl = \"https://localhost:{port}/\"\nallow_addresses = [\"127.0.0.0/8\"]\n\
             ca_file = \"{}\"\nclient_cert_file = \"{}\"\nclient_key_file = \"{}\"\n{HURRIED}",
            file("ca.crt").display(),
            file("client.crt").display(),
            file("client.key").display()
        )
    })
    .await;
    town.emit("t0", "u1", "created", r#"{"email": "u1@example.com"}"#).await;
    town.installation.until_settled(&["vault"]).await;
    let held =
        "select delivered_version from postbound.delivery_ledger where target = 'vault' and user_id = 'u1'";
    assert_eq!(town.ask(held).await, "1");
}
