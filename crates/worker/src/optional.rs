/// Waits for a future where there is one, and for ever where there is none: a branch of a `select!` that may be absent.
pub(crate) async fn pending_or<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
