use super::{SOON, emit, machine::TimeMachine, rebase, until_converged, until_halted, until_witnessed};
use postbound_tests::{Options, Role, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_restored_into_a_new_cluster_is_found_and_loses_neither_what_waited_nor_what_came_since() {
    let machine = TimeMachine::start().await;
    let installation = machine.installation(Options::default()).await;
    let mut relay = installation.relay();
    let _worker = installation.worker(&[]);
    emit(&installation, "user", 30, "created").await;
    until_converged(&installation).await;
    until_witnessed(&installation, 0).await;
    // Transaction ids of the first cluster get well above those of the second.
    sqlx::raw_sql(
        "do $$ begin for n in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$",
    )
    .execute(installation.database.superuser())
    .await
    .unwrap();
    emit(&installation, "user", 10, "updated").await;
    until_converged(&installation).await;
    // Its cursors are saved.
    assert!(relay.terminate().await.success());
    emit(&installation, "waited", 15, "created").await;
    let dump = machine.dump();
    let relay = installation.relay();
    emit(&installation, "user", 30, "updated").await;
    emit(&installation, "lost", 5, "created").await;
    until_converged(&installation).await;
    machine.restore_into_a_new_cluster(&dump).await;
    emit(&installation, "since", 25, "created").await;
    emit(&installation, "user", 5, "updated").await;

    let said = until_halted(&relay).await;
    assert!(said.contains("Postgres is another cluster"), "{said}");
    let done = rebase(&installation, &[]).await;
    // 15 that waited for both targets and for the projection, 30 that came since.
    assert_eq!(done["rebased"]["changes"], 45, "{done}");
    assert_eq!(done["rebased"]["users"], 70, "{done}");
    let only_there = until_converged(&installation).await;
    assert_eq!(only_there.len(), 5, "{only_there:?}");
    emit(&installation, "user", 30, "updated").await;
    until_converged(&installation).await;
    eventually("no stream has anything left to read", SOON, async || {
        let lags = installation.store().stream_lags().await.unwrap();
        lags.iter().all(|lag| lag.rows == 0).then_some(())
    })
    .await;
    let doctor = installation.run(Role::Operator, &["rebase", "--dry-run"]).await;
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("nothing to mend"), "{doctor:?}");
}
