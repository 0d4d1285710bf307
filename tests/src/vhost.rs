use postbound_testbed::{QueueInfo, RabbitMq};
use serde_json::{Value, json};
use uuid::Uuid;

/// A virtual host of one test's own, deleted with the value.
pub struct Vhost {
    name: String,
    url: String,
    rabbitmq: RabbitMq,
}

impl Vhost {
    pub(crate) async fn new(rabbitmq: RabbitMq) -> Self {
        let name = format!("test-{}", Uuid::new_v4().simple());
        let url = rabbitmq.create_vhost(&name).await.unwrap();
        Self { name, url, rabbitmq }
    }

    /// Its AMQP URL, as administrator.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Empties every queue.
    ///
    /// # Panics
    /// When RabbitMQ does not answer.
    pub async fn purge(&self) {
        for queue in self.rabbitmq.queues(&self.name).await.unwrap() {
            self.rabbitmq.purge_queue(&self.name, &queue).await.unwrap();
        }
    }

    /// Deletes it with all that is in it, and makes an empty one of the same name.
    ///
    /// # Panics
    /// When RabbitMQ does not answer.
    pub async fn make_anew(&self) {
        self.rabbitmq.delete_vhost(&self.name).await.unwrap();
        self.rabbitmq.create_vhost(&self.name).await.unwrap();
    }

    /// A queue's counts; none if there is no such queue.
    ///
    /// # Panics
    /// When RabbitMQ does not answer.
    pub async fn queue(&self, name: &str) -> Option<QueueInfo> {
        self.rabbitmq.queue_info(&self.name, name).await.unwrap()
    }

    /// Deletes a queue, whatever it holds.
    ///
    /// # Panics
    /// When RabbitMQ does not answer.
    pub async fn delete_queue(&self, name: &str) {
        self.rabbitmq.delete_queue(&self.name, name).await.unwrap();
    }

    /// Stops a quorum queue's own process, so that it answers nobody.
    ///
    /// # Panics
    /// When RabbitMQ does not answer.
    pub async fn suspend_queue(&self, name: &str) {
        self.tell_queue("suspend", name).await;
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When RabbitMQ does not answer.
    pub async fn resume_queue(&self, name: &str) {
        self.tell_queue("resume", name).await;
    }

    async fn tell_queue(&self, what: &str, name: &str) {
        let vhost = &self.name;
        let code = format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"{name}\">>)), \
             ok = sys:{what}(amqqueue:get_pid(Q))."
        );
        self.rabbitmq.rabbitmqctl(&["eval", &code]).await.unwrap();
    }

    /// Closes every connection from RabbitMQ's side.
    ///
    /// # Panics
    /// When RabbitMQ does not answer.
    pub async fn cut_connections(&self) {
        self.rabbitmq.close_all_connections(&self.name).await.unwrap();
    }

    /// Looks at the messages of a queue and leaves them there: properties and payload, as the management API has them.
    ///
    /// # Panics
    /// When RabbitMQ does not answer.
    pub async fn peek(&self, http: &reqwest::Client, queue: &str) -> Vec<Value> {
        let url = format!("{}/api/queues/{}/{queue}/get", self.rabbitmq.management_url(), self.name);
        let ask = json!({"count": 1000, "ackmode": "ack_requeue_true", "encoding": "auto"});
        let request = http.post(url).basic_auth(self.rabbitmq.user(), Some(self.rabbitmq.password()));
        request.json(&ask).send().await.unwrap().json().await.unwrap()
    }

    /// Takes so many messages from a queue and refuses them for good: the queue gives them up.
    ///
    /// # Panics
    /// When RabbitMQ does not answer, or there are not so many.
    pub async fn reject(&self, http: &reqwest::Client, queue: &str, count: usize) {
        let url = format!("{}/api/queues/{}/{queue}/get", self.rabbitmq.management_url(), self.name);
        let ask = json!({"count": count, "ackmode": "reject_requeue_false", "encoding": "auto"});
        let request = http.post(url).basic_auth(self.rabbitmq.user(), Some(self.rabbitmq.password()));
        let refused: Vec<Value> = request.json(&ask).send().await.unwrap().json().await.unwrap();
        assert_eq!(refused.len(), count);
    }

    /// Publishes a message.
    ///
    /// # Panics
    /// When RabbitMQ does not answer, or no queue takes it.
    pub async fn publish(&self, http: &reqwest::Client, exchange: &str, routing_key: &str, payload: &str) {
        let url =
            format!("{}/api/exchanges/{}/{exchange}/publish", self.rabbitmq.management_url(), self.name);
        let message = json!({
            "properties": {}, "routing_key": routing_key, "payload": payload, "payload_encoding": "string"
        });
        let request = http.post(url).basic_auth(self.rabbitmq.user(), Some(self.rabbitmq.password()));
        let answer: Value = request.json(&message).send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["routed"], true, "{answer}");
    }
}

impl Drop for Vhost {
    /// Best effort: whatever is left goes with the private server.
    fn drop(&mut self) {
        let (rabbitmq, name) = (self.rabbitmq.clone(), std::mem::take(&mut self.name));
        let deleting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.is_ok_and(|runtime| runtime.block_on(rabbitmq.delete_vhost(&name)).is_ok())
        });
        deleting.join().ok();
    }
}
