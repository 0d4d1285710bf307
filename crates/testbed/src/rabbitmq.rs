//! A running RabbitMQ: its URLs, virtual hosts, queues and crashes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::amqp::{self, QueueInfo};
use crate::launch::{Launch, log_tail};
use crate::{management, processes};

/// A private RabbitMQ node on loopback, with the management plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RabbitMq {
    pub(crate) amqp_port: u16,
    pub(crate) amqps_port: u16,
    pub(crate) management_port: u16,
    pub(crate) node: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) log: PathBuf,
    pub(crate) ready_within: Duration,
    pub(crate) epmd: Launch,
    pub(crate) rabbitmqctl: Launch,
    pub(crate) launch: Launch,
}

impl RabbitMq {
    /// The AMQP port on 127.0.0.1.
    #[must_use]
    pub fn amqp_port(&self) -> u16 {
        self.amqp_port
    }

    /// The port on 127.0.0.1 for AMQP over TLS: clients need a certificate, whose name does not matter.
    #[must_use]
    pub fn amqps_port(&self) -> u16 {
        self.amqps_port
    }

    /// The administrator, who may do everything in every virtual host made by [`Self::create_vhost`].
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The administrator's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The server's log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The AMQP URL of a virtual host, as administrator.
    #[must_use]
    pub fn amqp_url(&self, vhost: &str) -> String {
        self.amqp_url_as(&self.user, &self.password, vhost)
    }

    /// The AMQP URL of a virtual host for another user, whose name and password may not need escaping.
    #[must_use]
    pub fn amqp_url_as(&self, user: &str, password: &str, vhost: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/{}", self.amqp_port, management::encoded(vhost))
    }

    /// Where the management API and its web pages are, without credentials.
    #[must_use]
    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.management_port)
    }

    /// Creates a virtual host and returns its AMQP URL.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn create_vhost(&self, name: &str) -> Result<String> {
        let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
        management::demand(self, Method::PUT, &["vhosts", name], Some(&json!({}))).await?;
        management::demand(self, Method::PUT, &["permissions", name, &self.user], Some(&everything)).await?;
        Ok(self.amqp_url(name))
    }

    /// Deletes a virtual host with its queues and connections, if it exists.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn delete_vhost(&self, name: &str) -> Result<()> {
        management::delete(self, &["vhosts", name]).await
    }

    /// Creates a user with the given permissions (regular expressions) in one virtual host; returns its AMQP URL.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn create_user(
        &self,
        name: &str,
        vhost: &str,
        configure: &str,
        write: &str,
        read: &str,
    ) -> Result<String> {
        let account = json!({"password": self.password, "tags": ""});
        let permissions = json!({"configure": configure, "write": write, "read": read});
        management::demand(self, Method::PUT, &["users", name], Some(&account)).await?;
        management::demand(self, Method::PUT, &["permissions", vhost, name], Some(&permissions)).await?;
        Ok(self.amqp_url_as(name, &self.password, vhost))
    }

    /// The names of the queues in a virtual host.
    ///
    /// # Errors
    /// If there is no such virtual host or the server does not answer.
    pub async fn queues(&self, vhost: &str) -> Result<Vec<String>> {
        management::names(self, &["queues", vhost]).await
    }

    /// A queue's counts now; none if there is no such queue.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn queue_info(&self, vhost: &str, queue: &str) -> Result<Option<QueueInfo>> {
        amqp::queue_info(&self.amqp_url(vhost), queue).await
    }

    /// Removes a queue's ready messages.
    ///
    /// # Errors
    /// If there is no such queue or the server does not answer.
    pub async fn purge_queue(&self, vhost: &str, queue: &str) -> Result<()> {
        management::demand(self, Method::DELETE, &["queues", vhost, queue, "contents"], None).await.map(drop)
    }

    /// Deletes a queue, if it exists, whatever it holds.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn delete_queue(&self, vhost: &str, queue: &str) -> Result<()> {
        management::delete(self, &["queues", vhost, queue]).await
    }

    /// Closes every connection to a virtual host from the server's side.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn close_all_connections(&self, vhost: &str) -> Result<()> {
        self.rabbitmqctl(&["close_all_connections", "--vhost", vhost, "closed by the testbed"])
            .await
            .map(drop)
    }

    /// Raises or clears the memory alarm, under which the server blocks whoever publishes, in all virtual hosts.
    ///
    /// # Errors
    /// If the server does not answer, or the alarm does not change.
    pub async fn set_memory_alarm(&self, on: bool) -> Result<()> {
        let watermark = if on { "0" } else { crate::rabbitmq_server::MEMORY_WATERMARK };
        self.rabbitmqctl(&["set_vm_memory_high_watermark", watermark]).await?;
        let wanted = if on { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let path = ["health", "checks", "local-alarms"];
            let (status, text) = management::request(self, Method::GET, &path, None).await?;
            if status == wanted {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the memory alarm does not change: {status} {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has the server write down the names of its queues, so that [`Self::kill_9`] cannot catch it before.
    ///
    /// A quorum queue's Raft directory learns of it up to a second or two after its declaration. Killed before, 3.10
    /// comes back with the queue but without its log, its messages or ever a leader (rabbitmq-server #15725).
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn settle_queues(&self) -> Result<()> {
        self.rabbitmqctl(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()]."]).await.map(drop)
    }

    /// Runs a `rabbitmqctl` command against this node and returns its output. Takes about half a second.
    ///
    /// # Errors
    /// If the command fails; the message bears its output.
    pub async fn rabbitmqctl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.rabbitmqctl.command()?;
        command.args(["--quiet", "--node", &self.node]).args(args);
        let run = tokio::task::spawn_blocking(move || {
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).output()
        });
        let output = run.await?.context("cannot start rabbitmqctl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rabbitmqctl {}: {text}{complaint}", args.join(" "));
        Ok(text)
    }

    /// The process id of the Erlang machine, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.processes().first().map(|pid| pid.as_raw())
    }

    /// Kills every process of the server with SIGKILL, and returns when they are gone.
    ///
    /// # Errors
    /// If they do not end.
    pub fn kill_9(&self) -> Result<()> {
        processes::kill_all(&self.launch.folder)
    }

    /// Stops every process of the server where it stands: connections stay open and nothing answers.
    pub fn freeze(&self) {
        processes::freeze(&self.launch.folder, true);
    }

    /// Undoes [`Self::freeze`].
    pub fn thaw(&self) {
        processes::freeze(&self.launch.folder, false);
    }

    /// Starts the server again on the same ports and data after [`Self::kill_9`], and waits until it answers.
    ///
    /// # Errors
    /// If it still runs, or does not come up: then with the end of its log.
    pub async fn start_again(&self) -> Result<()> {
        ensure!(processes::of(&self.launch.folder).is_empty(), "RabbitMQ still runs");
        self.start().await
    }

    /// Starts the server and waits until it answers.
    pub(crate) async fn start(&self) -> Result<()> {
        if processes::of(&self.epmd.folder).is_empty() {
            self.epmd.spawn()?;
        }
        let pid = self.launch.spawn()?;
        let deadline = Instant::now() + self.ready_within;
        while !self.answers().await {
            let outcome = if !processes::is_alive(pid) {
                "ended while starting"
            } else if Instant::now() >= deadline {
                "is not ready in time"
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (output, log) = (self.launch.log_tail(), log_tail(&self.log));
            bail!("RabbitMQ {outcome}; its output ends:\n{output}\nits log ends:\n{log}");
        }
        Ok(())
    }

    /// AMQP over TLS opens last in the server's start, after the management API and AMQP.
    async fn answers(&self) -> bool {
        let path = ["health", "checks", "port-listener", &self.amqps_port.to_string()];
        let asking = management::request(self, Method::GET, &path, None);
        // Whoever else took the port may accept and never answer.
        let answer = tokio::time::timeout(Duration::from_secs(2), asking).await;
        matches!(answer, Ok(Ok((StatusCode::OK, _))))
    }

    fn processes(&self) -> Vec<Pid> {
        let members = processes::of(&self.launch.folder);
        members.into_iter().filter(|member| member.name == "beam.smp").map(|member| member.pid).collect()
    }
}
