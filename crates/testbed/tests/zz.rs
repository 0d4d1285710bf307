#![allow(missing_docs)]
use postbound_testbed::*;
#[test]
fn pk() {
    packages::ensure(&["pgbouncer", "python3-psycopg"]).unwrap();
    let t = std::time::Instant::now();
    packages::ensure(&["pgbouncer", "postgresql"]).unwrap();
    println!("again {:?}", t.elapsed());
    println!(
        "{:?} {:?}",
        packages::program("pgbouncer"),
        packages::ensure(&["no-such-package-xyz"]).unwrap_err()
    );
}
#[tokio::test(flavor = "multi_thread")]
async fn three() {
    let t = std::time::Instant::now();
    let (a, b, c) = tokio::join!(
        Services::start(Options::default()),
        Services::start(Options {
            fsync: false,
            postgres_settings: vec![("max_connections".into(), "50".into())],
            ..Options::default()
        }),
        Services::start(Options::default())
    );
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    println!("three {:?}", t.elapsed());
    use sqlx::Connection;
    let mut s = sqlx::PgConnection::connect(&b.postgres.superuser_url()).await.unwrap();
    let v: Vec<String> = sqlx::query_scalar("select current_setting(n) from unnest(array['fsync','max_connections','synchronous_commit','listen_addresses']) n").fetch_all(&mut s).await.unwrap();
    println!("{v:?}");
    a.rabbitmq.kill_9().unwrap();
    assert!(b.rabbitmq.pid().is_some() && c.rabbitmq.pid().is_some());
    c.rabbitmq.freeze();
    assert!(c.rabbitmq.create_vhost("x").await.is_err());
    c.rabbitmq.thaw();
    c.rabbitmq.create_vhost("x").await.unwrap();
    c.rabbitmq.create_user("weak", "x", "", "", ".*").await.unwrap();
    c.postgres.freeze();
    c.rabbitmq.freeze(); // stop while frozen
}
