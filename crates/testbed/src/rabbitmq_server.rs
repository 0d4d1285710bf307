//! A new RabbitMQ node with a port mapper of its own, from its configuration to the first answer.

use std::path::Path;

use anyhow::Result;
use uuid::Uuid;

use crate::launch::{Launch, tells_of_lost_port};
use crate::packages::Packages;
use crate::run_dir::RunDir;
use crate::{Authority, Options, RabbitMq, ports, processes};

/// The share of the machine's memory at which the server blocks publishers.
pub(crate) const MEMORY_WATERMARK: &str = "0.8";

/// Creates a node in the run's folder and starts it.
pub(crate) async fn start(
    packages: &Packages,
    run: &RunDir,
    authority: &Authority,
    options: &Options,
) -> Result<RabbitMq> {
    const TRIES: usize = 3;
    let folder = run.server_folder("rabbitmq", None)?;
    let ctl_folder = run.server_folder("rabbitmqctl", None)?;
    let epmd_folder = run.server_folder("epmd", None)?;
    let cookie = Uuid::new_v4().simple().to_string();
    for last in (1..=TRIES).map(|attempt| attempt == TRIES) {
        let rabbitmq = node(packages, run.name(), options, [&folder, &ctl_folder, &epmd_folder], &cookie)?;
        authority.equip(&folder, None)?;
        match rabbitmq.start().await {
            Err(error) if !last && tells_of_lost_port(&error.to_string()) => {
                for folder in [&folder, &epmd_folder] {
                    processes::kill_all(folder)?;
                    std::fs::remove_dir_all(folder)?;
                    std::fs::create_dir(folder)?;
                }
            }
            outcome => return outcome.map(|()| rabbitmq),
        }
    }
    unreachable!("the last try returns")
}

fn node(
    packages: &Packages,
    run: &str,
    options: &Options,
    [folder, ctl_folder, epmd_folder]: [&Path; 3],
    cookie: &str,
) -> Result<RabbitMq> {
    let [amqp_port, amqps_port, management_port, distribution_port, epmd_port, ctl_port] = ports::free()?;
    let node = format!("postbound-{run}@localhost");
    let environment =
        |home: &Path| environment(home, &node, cookie, [distribution_port, epmd_port, ctl_port]);
    let launch = Launch {
        program: packages.rabbitmq_bin.join("rabbitmq-server"),
        args: Vec::new(),
        env: environment(folder),
        account: None,
        folder: folder.to_owned(),
        log: folder.join("output.log"),
    };
    let rabbitmq = RabbitMq {
        amqp_port,
        amqps_port,
        management_port,
        user: "postbound".to_owned(),
        password: Uuid::new_v4().simple().to_string(),
        log: folder.join("log/rabbit.log"),
        ready_within: options.ready_within,
        epmd: Launch {
            program: packages.epmd.clone(),
            args: ["-address", "127.0.0.1", "-port", &epmd_port.to_string()].map(str::to_owned).to_vec(),
            env: Vec::new(),
            account: None,
            folder: epmd_folder.to_owned(),
            log: epmd_folder.join("epmd.log"),
        },
        // A folder of its own, or a crash of the server would take a running command with it.
        rabbitmqctl: Launch {
            program: packages.rabbitmq_bin.join("rabbitmqctl"),
            env: environment(ctl_folder),
            folder: ctl_folder.to_owned(),
            log: ctl_folder.join("output.log"),
            ..launch.clone()
        },
        launch,
        node,
    };
    std::fs::write(folder.join("rabbitmq.conf"), configuration(&rabbitmq))?;
    std::fs::write(folder.join("enabled_plugins"), "[rabbitmq_management].\n")?;
    // Sourced by the start script; ours keeps it from reading the machine's.
    std::fs::write(folder.join("rabbitmq-env.conf"), "")?;
    Ok(rabbitmq)
}

fn configuration(rabbitmq: &RabbitMq) -> String {
    let RabbitMq { amqp_port, amqps_port, management_port, user, password, launch, .. } = rabbitmq;
    let folder = launch.folder.display();
    format!(
        "listeners.tcp.1 = 127.0.0.1:{amqp_port}\n\
         listeners.ssl.1 = 127.0.0.1:{amqps_port}\n\
         ssl_options.cacertfile = {folder}/root.crt\n\
         ssl_options.certfile = {folder}/server.crt\n\
         ssl_options.keyfile = {folder}/server.key\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = true\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {management_port}\n\
         management.rates_mode = none\n\
         loopback_users = none\n\
         default_user = {user}\n\
         default_pass = {password}\n\
         default_user_tags.administrator = true\n\
         disk_free_limit.absolute = 50MB\n\
         vm_memory_high_watermark.relative = {MEMORY_WATERMARK}\n\
         log.file.level = info\n"
    )
}

fn environment(
    home: &Path,
    node: &str,
    cookie: &str,
    [distribution_port, epmd_port, ctl_port]: [u16; 3],
) -> Vec<(String, String)> {
    let inside = |name: &str| home.join(name).display().to_string();
    let schedulers = std::thread::available_parallelism().map_or(2, |cores| cores.get().min(4));
    [
        ("RABBITMQ_NODENAME", node.to_owned()),
        ("RABBITMQ_BASE", home.display().to_string()),
        ("RABBITMQ_CONF_ENV_FILE", inside("rabbitmq-env.conf")),
        ("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", inside("advanced.config")),
        ("RABBITMQ_CONFIG_FILES", inside("conf.d/*.conf")),
        ("RABBITMQ_GENERATED_CONFIG_DIR", inside("generated")),
        ("RABBITMQ_SCHEMA_DIR", inside("schema")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", inside("enabled_plugins")),
        ("RABBITMQ_FEATURE_FLAGS_FILE", inside("feature_flags")),
        ("RABBITMQ_MNESIA_BASE", inside("mnesia")),
        ("RABBITMQ_MNESIA_DIR", inside("mnesia/node")),
        ("RABBITMQ_PLUGINS_EXPAND_DIR", inside("plugins")),
        ("RABBITMQ_LOG_BASE", inside("log")),
        ("RABBITMQ_LOGS", inside("log/rabbit.log")),
        ("RABBITMQ_PID_FILE", inside("rabbit.pid")),
        ("RABBITMQ_DIST_PORT", distribution_port.to_string()),
        ("RABBITMQ_CTL_DIST_PORT_MIN", ctl_port.to_string()),
        ("RABBITMQ_CTL_DIST_PORT_MAX", (ctl_port + 10).to_string()),
        ("RABBITMQ_ERLANG_COOKIE", cookie.to_owned()),
        ("ERL_EPMD_PORT", epmd_port.to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_SERVER_START_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
        // Several nodes on one machine must not all bind to its first cores, nor spin.
        ("RABBITMQ_SCHEDULER_BIND_TYPE", "u".to_owned()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", format!("+S {schedulers}:{schedulers} +sbwt none")),
        // The start script then becomes the Erlang machine instead of staying in front of it.
        ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}
