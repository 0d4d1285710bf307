use postbound_store::{StoreError, within};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Waiting questions at most; more wait at the door.
const QUEUE: usize = 4096;
/// How long the statement may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Questions of all lanes of the worker, gathered into one statement.
///
/// While one statement is under way the next gathers, so a lone question waits for nobody and a crowd shares the cost.
pub(crate) struct Gathered<Q, A> {
    questions: mpsc::Sender<Asked<Q, A>>,
}

type Asked<Q, A> = (Q, oneshot::Sender<A>);

impl<Q, A> Clone for Gathered<Q, A> {
    fn clone(&self) -> Self {
        Self { questions: self.questions.clone() }
    }
}

impl<Q: Send + 'static, A: Send + 'static> Gathered<Q, A> {
    /// Starts answering; ends with the last handle. `ask` gives one answer per question, in their order, of `batch_max`
    /// questions at most. `failed` is what the log says when it cannot.
    pub(crate) fn start<F>(
        batch_max: usize,
        failed: &'static str,
        ask: impl Fn(Vec<Q>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Vec<A>, StoreError>> + Send + 'static,
    {
        let (questions, mut queue) = mpsc::channel::<Asked<Q, A>>(QUEUE);
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while queue.recv_many(&mut batch, batch_max).await > 0 {
                let (asked, replies): (Vec<Q>, Vec<_>) = batch.drain(..).unzip();
                match within(STATEMENT_TIMEOUT, ask(asked)).await {
                    // Whoever asked may have gone.
                    Ok(answers) => {
                        replies.into_iter().zip(answers).for_each(|(reply, answer)| drop(reply.send(answer)));
                    }
                    Err(error) => tracing::warn!(error = %error, "{failed}"),
                }
            }
        });
        Self { questions }
    }

    /// The answer; None: Postgres did not give it, which the log says, or the worker ends.
    pub(crate) async fn ask(&self, question: Q) -> Option<A> {
        let (reply, answer) = oneshot::channel();
        self.questions.send((question, reply)).await.ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::Notify;

    /// How many questions each statement was of.
    type Sizes = Arc<Mutex<Vec<usize>>>;

    /// Doubles numbers, a batch for each permission; the sizes of the batches are kept.
    fn doubling() -> (Gathered<u64, u64>, Arc<Notify>, Sizes) {
        let (permission, sizes) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
        let (permitted, kept) = (Arc::clone(&permission), Arc::clone(&sizes));
        let gathered = Gathered::start(4, "not doubled", move |numbers: Vec<u64>| {
            kept.lock().unwrap().push(numbers.len());
            let permitted = Arc::clone(&permitted);
            async move {
                permitted.notified().await;
                match numbers.contains(&0) {
                    true => Err(StoreError::Unexpected("nothing to double".to_owned())),
                    false => Ok(numbers.into_iter().map(|number| 2 * number).collect()),
                }
            }
        });
        (gathered, permission, sizes)
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_come_during_a_statement_share_the_next_and_each_gets_its_own_answer() {
        let (gathered, permission, sizes) = doubling();
        let ask = |number| {
            let gathered = gathered.clone();
            tokio::spawn(async move { gathered.ask(number).await })
        };
        let mut answers = vec![ask(1)];
        while sizes.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        answers.extend((2..=6).map(ask));
        while gathered.questions.capacity() > QUEUE - 5 {
            tokio::task::yield_now().await;
        }
        for (answer, number) in answers.iter_mut().zip(1..) {
            permission.notify_one();
            assert_eq!(answer.await.unwrap(), Some(2 * number));
        }
        assert_eq!(*sizes.lock().unwrap(), [1, 4, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_that_fails_or_hangs_fails_its_own_questions_alone() {
        let (gathered, permission, _) = doubling();
        permission.notify_one();
        assert_eq!(gathered.ask(0).await, None);
        // No permission: it takes longer than it may.
        assert_eq!(gathered.ask(1).await, None);
        permission.notify_one();
        assert_eq!(gathered.ask(2).await, Some(4));
    }
}
