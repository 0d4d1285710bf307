//! The promises the other tests build on: servers come up next to whatever runs, survive what tests do to them, and
//! leave nothing behind.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postbound_testbed::{Endpoints, Options, QueueInfo, RabbitMq, Services};
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn servers_keep_what_they_confirmed_over_kill_9_and_leave_nothing_behind() {
    let services = Services::start(Options::default()).await.unwrap();
    let endpoints = Endpoints::read(services.endpoints_file()).unwrap();
    let run = services.endpoints_file().parent().unwrap().to_owned();

    databases_are_copied_crash_and_come_back(&endpoints).await;
    roles_need_their_passwords(&endpoints).await;
    queues_crash_and_come_back(&endpoints.rabbitmq).await;
    connections_can_be_closed_and_publishers_blocked(&endpoints.rabbitmq).await;

    services.stop().await;
    assert!(!run.exists());
    assert_eq!(commands_that_name(&run), Vec::<String>::new());
    assert_eq!((endpoints.postgres.pid(), endpoints.rabbitmq.pid()), (None, None));
}

async fn databases_are_copied_crash_and_come_back(Endpoints { postgres, .. }: &Endpoints) {
    let template = postgres.create_database("template_of_test").await.unwrap();
    let mut session = PgConnection::connect(&template).await.unwrap();
    sqlx::query("create table kept as select 7 as number").execute(&mut session).await.unwrap();
    session.close().await.unwrap();
    let copy = postgres.create_database_from_template("copy", "template_of_test").await.unwrap();
    assert!(postgres.create_database("copy").await.is_err());

    let before = postgres.pid();
    // Its parent, that is us, has not looked after it yet: a zombie is no server.
    kill(Pid::from_raw(before.unwrap()), Signal::SIGKILL).unwrap();
    eventually(|| postgres.pid().is_none()).await;
    postgres.kill_9().unwrap();
    postgres.start_again().await.unwrap();
    assert!(postgres.pid().is_some());
    assert_ne!(postgres.pid(), before);

    let mut session = PgConnection::connect(&copy).await.unwrap();
    let kept: i32 = sqlx::query_scalar("select number from kept").fetch_one(&mut session).await.unwrap();
    assert_eq!(kept, 7);
    postgres.drop_database("copy").await.unwrap();
    assert!(PgConnection::connect(&copy).await.is_err());
}

async fn roles_need_their_passwords(Endpoints { postgres, .. }: &Endpoints) {
    let mut session = PgConnection::connect(&postgres.superuser_url()).await.unwrap();
    sqlx::query("create role emitter login password 'right'").execute(&mut session).await.unwrap();
    assert!(PgConnection::connect(&postgres.url_as("emitter", "right", "postgres")).await.is_ok());
    assert!(PgConnection::connect(&postgres.url_as("emitter", "wrong", "postgres")).await.is_err());
}

async fn queues_crash_and_come_back(rabbitmq: &RabbitMq) {
    let url = rabbitmq.create_vhost("crash").await.unwrap();
    let channel = channel(&url).await;
    declare_quorum(&channel, "work").await;
    publish(&channel, "work").await;
    assert_eq!(rabbitmq.queue_info("crash", "work").await.unwrap(), Some(one_ready()));
    assert_eq!(rabbitmq.queue_info("crash", "other").await.unwrap(), None);
    assert_eq!(rabbitmq.queues("crash").await.unwrap(), ["work"]);

    rabbitmq.settle_queues().await.unwrap();
    rabbitmq.kill_9().unwrap();
    assert_eq!(rabbitmq.pid(), None);
    rabbitmq.start_again().await.unwrap();

    // A restarted quorum queue counts nothing until it has replayed its log.
    let deadline = Instant::now() + Duration::from_secs(10);
    while rabbitmq.queue_info("crash", "work").await.unwrap() != Some(one_ready()) {
        assert!(Instant::now() < deadline, "the confirmed message is gone");
    }
    rabbitmq.purge_queue("crash", "work").await.unwrap();
    assert_eq!(rabbitmq.queue_info("crash", "work").await.unwrap().unwrap().messages_ready, 0);
    rabbitmq.delete_queue("crash", "work").await.unwrap();
    assert_eq!(rabbitmq.queues("crash").await.unwrap(), [""; 0]);
    rabbitmq.delete_vhost("crash").await.unwrap();
    assert!(rabbitmq.queues("crash").await.is_err());
}

async fn connections_can_be_closed_and_publishers_blocked(rabbitmq: &RabbitMq) {
    let url = rabbitmq.create_vhost("faults").await.unwrap();
    let closed = channel(&url).await;
    rabbitmq.close_all_connections("faults").await.unwrap();
    eventually(|| !closed.status().connected()).await;

    let blocked = channel(&url).await;
    declare_quorum(&blocked, "work").await;
    rabbitmq.set_memory_alarm(true).await.unwrap();
    let publishing = publish(&blocked, "work");
    tokio::pin!(publishing);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut publishing).await.is_err());
    rabbitmq.set_memory_alarm(false).await.unwrap();
    publishing.await;
}

#[tokio::test]
async fn the_next_start_removes_what_a_killed_owner_left() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owns_services_until_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let run = loop {
        let line = lines.next_line().await.unwrap().expect("the owner says where its servers are");
        if let Some((_, path)) = line.split_once("endpoints: ") {
            break PathBuf::from(path).parent().unwrap().to_owned();
        }
    };
    owner.start_kill().unwrap();
    assert_eq!(owner.wait().await.unwrap().signal(), Some(9));
    assert_ne!(commands_that_name(&run), Vec::<String>::new());

    let next = Services::start(Options::default()).await.unwrap();
    assert!(!run.exists());
    assert_eq!(commands_that_name(&run), Vec::<String>::new());
    assert!(next.postgres.pid().is_some());
}

#[tokio::test]
#[ignore = "the owner of the test above, in a process of its own"]
#[expect(clippy::print_stdout, reason = "how its parent learns of it")]
async fn owns_services_until_killed() {
    let services = Services::start(Options::default()).await.unwrap();
    println!("endpoints: {}", services.endpoints_file().display());
    std::future::pending::<()>().await;
}

async fn channel(url: &str) -> Channel {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    // Dropped, it would close under the channel.
    std::mem::forget(connection);
    channel
}

async fn declare_quorum(channel: &Channel, queue: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, arguments).await.unwrap();
}

async fn publish(channel: &Channel, queue: &str) {
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_delivery_mode(2);
    let confirm = channel.basic_publish("".into(), queue.into(), options, b"kept", properties).await.unwrap();
    assert!(confirm.await.unwrap().is_ack());
}

fn one_ready() -> QueueInfo {
    QueueInfo { messages_ready: 1, consumers: 0 }
}

async fn eventually(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not in ten seconds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The command lines and environments of live processes, other than our own, that name the folder.
fn commands_that_name(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| process.file_name().to_str() != Some(std::process::id().to_string().as_str()))
        .filter_map(|process| {
            let command = std::fs::read(process.path().join("cmdline")).ok()?;
            let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
            let text = String::from_utf8_lossy(&[command, environment].concat()).replace('\0', " ");
            text.contains(folder).then_some(text)
        })
        .collect()
}
