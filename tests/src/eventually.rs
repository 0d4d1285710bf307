use std::time::{Duration, Instant};

/// Asks again and again until the answer is there, and gives it. For what a test cannot be told of: the state of an
/// outside process.
///
/// # Panics
/// When `within` has passed without an answer; the message says for `what`.
pub async fn eventually<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
