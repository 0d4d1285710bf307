//! A new PostgreSQL cluster, from `initdb` to the first connection.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use crate::launch::{Account, Launch, tells_of_lost_port};
use crate::packages::Packages;
use crate::run_dir::RunDir;
use crate::{Authority, Options, Postgres, ports};

/// Creates a cluster in the folder `name` of the run's and starts its server.
pub(crate) async fn start(
    packages: &Packages,
    run: &RunDir,
    name: &str,
    authority: &Authority,
    options: &Options,
) -> Result<Postgres> {
    const TRIES: usize = 3;
    let account = Account::instead_of_root("postgres")?;
    let folder = run.server_folder(name, account)?;
    let launch = Launch {
        program: packages.postgres_bin.join("postgres"),
        args: Vec::new(),
        env: Vec::new(),
        account,
        log: folder.join("postgres.log"),
        folder,
    };
    let mut postgres = Postgres {
        port: 0,
        password: Uuid::new_v4().simple().to_string(),
        socket_folder: launch.folder.clone(),
        data_folder: launch.folder.join("data"),
        bin_folder: packages.postgres_bin.clone(),
        ready_within: options.ready_within,
        launch,
    };
    let (initdb, authority) = (postgres.clone(), authority.clone());
    let settings = settings(options);
    tokio::task::spawn_blocking(move || {
        create_cluster(&initdb, &settings)?;
        authority.equip(&initdb.data_folder, account)?;
        demand_certificates(&initdb.data_folder)
    })
    .await??;
    for last in (1..=TRIES).map(|attempt| attempt == TRIES) {
        let [port] = ports::free()?;
        postgres.port = port;
        postgres.launch.args = server_args(&postgres.data_folder, port);
        match postgres.start().await {
            Err(error) if !last && tells_of_lost_port(&error.to_string()) => {
                std::fs::remove_file(&postgres.launch.log)?;
            }
            outcome => return outcome.map(|()| postgres),
        }
    }
    unreachable!("the last try returns")
}

fn server_args(data_folder: &Path, port: u16) -> Vec<String> {
    vec!["-D".to_owned(), data_folder.display().to_string(), "-p".to_owned(), port.to_string()]
}

fn create_cluster(postgres: &Postgres, settings: &str) -> Result<()> {
    let folder = &postgres.launch.folder;
    let password_file = folder.join("password");
    std::fs::write(&password_file, &postgres.password)?;
    if let Some(account) = postgres.launch.account {
        std::os::unix::fs::chown(&password_file, Some(account.uid), Some(account.gid))?;
    }
    let initdb = Launch {
        program: postgres.bin_folder.join("initdb"),
        args: vec![
            format!("--pgdata={}", postgres.data_folder.display()),
            format!("--pwfile={}", password_file.display()),
            "--username=postgres".to_owned(),
            "--auth=scram-sha-256".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--locale=C.UTF-8".to_owned(),
            // An empty cluster need not survive a power cut; what is written to it later is another matter.
            "--no-sync".to_owned(),
        ],
        ..postgres.launch.clone()
    };
    let status = initdb.command()?.status().context("cannot start initdb")?;
    ensure!(status.success(), "initdb failed ({status}):\n{}", initdb.log_tail());
    std::fs::remove_file(password_file)?;
    let socket_setting = format!("unix_socket_directories = '{}'\n", folder.display());
    let configuration = postgres.data_folder.join("postgresql.conf");
    let mut text = std::fs::read_to_string(&configuration)?;
    text.push_str(&socket_setting);
    text.push_str(settings);
    std::fs::write(configuration, text)?;
    Ok(())
}

/// Rules in front of `initdb`'s own; the first that fits counts.
fn demand_certificates(data_folder: &Path) -> Result<()> {
    let rules = data_folder.join("pg_hba.conf");
    let others = std::fs::read_to_string(&rules)?;
    let members = format!("all +{} 127.0.0.1/32", Postgres::CERTIFIED);
    let first =
        format!("hostssl {members} scram-sha-256 clientcert=verify-full\nhostnossl {members} reject\n");
    Ok(std::fs::write(rules, first + &others)?)
}

fn settings(options: &Options) -> String {
    let fixed = [
        ("listen_addresses", "127.0.0.1"),
        ("max_connections", "400"),
        ("max_prepared_transactions", "64"),
        ("shared_buffers", "256MB"),
        ("fsync", if options.fsync { "on" } else { "off" }),
        // One call instead of a sync per file: a crash with a hundred databases is over in seconds, not minutes.
        ("recovery_init_sync_method", "syncfs"),
        // With the names that `Authority::equip` and PostgreSQL both give the server's own two files.
        ("ssl", "on"),
        ("ssl_ca_file", "root.crt"),
        ("log_line_prefix", "%m [%p] %q%u@%d %a "),
    ];
    let extra = options.postgres_settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    fixed
        .into_iter()
        .chain(extra)
        .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
        .collect()
}
