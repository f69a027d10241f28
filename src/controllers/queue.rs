//! A queue of things to look at: each at most once at a time, later wishes merged, failures retried ever more slowly.
//!
//! kube-runtime's `Controller` only reconciles objects that exist; a git-owned workload must also be looked at while it
//! does not. So this runs kube-runtime's scheduler over plain ids.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    future::Future,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use kube_runtime::scheduler::{ScheduleRequest, scheduler};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// Where wishes are put in. A clone puts into the same queue.
#[derive(Debug)]
pub struct Queue<T> {
    requests: mpsc::UnboundedSender<ScheduleRequest<T>>,
    open: Arc<AtomicBool>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), open: Arc::clone(&self.open) }
    }
}

/// What comes out of a queue; given to [`run`].
pub struct Wishes<T>(mpsc::UnboundedReceiver<ScheduleRequest<T>>);

/// A new queue. Until it is opened wishes are dropped: whoever opens it asks for everything.
pub fn queue<T>() -> (Queue<T>, Wishes<T>) {
    let (requests, wishes) = mpsc::unbounded_channel();
    (Queue { requests, open: Arc::default() }, Wishes(wishes))
}

impl<T> Queue<T> {
    /// From now on wishes are kept.
    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// Whether wishes are kept: whether this process acts.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Look at it as soon as possible.
    pub fn now(&self, id: T) {
        self.after(id, Duration::ZERO);
    }

    /// Look at it after a while, if nothing makes it happen before.
    pub fn after(&self, id: T, delay: Duration) {
        if !self.is_open() {
            return;
        }
        // The receiver only goes when the process stops.
        let _ = self.requests.send(ScheduleRequest { message: id, run_at: Instant::now() + delay });
    }
}

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Wait,
    /// Look again after this.
    After(Duration),
    /// It failed: again, each time twice as long after, up to the bound.
    Retry,
}

impl Next {
    /// The same, but not later than this.
    #[must_use]
    pub fn within(self, most: Option<Duration>) -> Self {
        match (self, most) {
            (Self::After(delay), Some(most)) => Self::After(delay.min(most)),
            (Self::Wait, Some(most)) => Self::After(most),
            (next @ (Self::Wait | Self::After(_) | Self::Retry), _) => next,
        }
    }
}

/// How long what is under way may take once the token is cancelled. Writes take less; what waits for a git server that does not
/// answer must not keep a successor waiting.
const GRACE: Duration = Duration::from_secs(10);

/// Takes ids out of the queue until the token is cancelled, and then waits for what is under way. `look` is never run
/// twice at once for one id, and `concurrency` times at once at most.
pub async fn run<T, F, Fut>(
    queue: Queue<T>,
    wishes: Wishes<T>,
    concurrency: usize,
    stop: CancellationToken,
    look: F,
) where
    T: Clone + Debug + Eq + Hash + Ord + Send + 'static,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Next> + Send + 'static,
{
    let requests =
        stream::unfold(wishes.0, |mut wishes| async { wishes.recv().await.map(|wish| (wish, wishes)) });
    let mut scheduler = Box::pin(scheduler(Box::pin(requests)));
    let mut running: BTreeSet<T> = BTreeSet::new();
    let mut failures: BTreeMap<T, u32> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let free = running.len() < concurrency;
        let next = async {
            let mut due = scheduler.as_mut().hold_unless(|id| free && !running.contains(id));
            due.next().await
        };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                let Ok((id, next)): Result<(T, Next), _> = done else { continue };
                running.remove(&id);
                let failed = failures.remove(&id).unwrap_or(0);
                match next {
                    Next::Wait => {}
                    Next::After(delay) => queue.after(id, delay),
                    Next::Retry => {
                        queue.after(id.clone(), backoff(failed, jitter(&id)));
                        failures.insert(id, failed + 1);
                    }
                }
            }
            due = next => {
                let Some(id) = due else { break };
                running.insert(id.clone());
                let work = look(id.clone());
                tasks.spawn(async move { (id, guard(work).await) });
            }
        }
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all).await.is_err() {
        tracing::warn!(seconds = GRACE.as_secs(), "what is still under way is left");
    }
}

/// A look that panics is a look that failed: it must not take the others with it, nor its id out of circulation.
async fn guard(work: impl Future<Output = Next> + Send + 'static) -> Next {
    match tokio::spawn(work).await {
        Ok(next) => next,
        Err(error) => {
            tracing::error!(%error, "a look at an object panicked");
            Next::Retry
        }
    }
}

/// How long to wait after a number of failures: doubling from half a second to five minutes, less up to a fifth of
/// jitter (`0..=255`), so that many objects that fail together do not come back together.
pub fn backoff(failures: u32, jitter: u8) -> Duration {
    let most = Duration::from_mins(5);
    let whole = Duration::from_millis(500).saturating_mul(1 << failures.min(16)).min(most);
    whole.mul_f64(1.0 - 0.2 * f64::from(jitter) / 255.0)
}

/// How long after its last look a thing is looked at although nothing happened: ten to twelve minutes, so that not all are at
/// once.
pub fn resync<T: Debug>(id: &T) -> Duration {
    Duration::from_mins(10) + Duration::from_secs(2).mul_f64(60.0 * f64::from(jitter(id)) / 255.0)
}

fn jitter<T: Debug>(id: &T) -> u8 {
    format!("{id:?}").bytes().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn backoff_doubles_within_bounds() {
        assert_eq!(backoff(0, 0), Duration::from_millis(500));
        assert_eq!(backoff(3, 0), Duration::from_secs(4));
        assert_eq!(backoff(40, 0), Duration::from_mins(5));
        assert!(backoff(3, 255) >= Duration::from_millis(3200));
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_is_never_looked_at_twice_at_once_and_nothing_is_lost() {
        let (queue, wishes) = queue::<u32>();
        queue.now(0);
        queue.open();
        let stop = CancellationToken::new();
        let seen = Arc::new(Mutex::new(BTreeMap::<u32, usize>::new()));
        let at_once = Arc::new(AtomicUsize::new(0));
        for id in 0..20 {
            queue.now(id % 5);
        }
        let look = {
            let (seen, at_once, queue) = (seen.clone(), at_once.clone(), queue.clone());
            move |id: u32| {
                let (seen, at_once, queue) = (seen.clone(), at_once.clone(), queue.clone());
                async move {
                    assert!(at_once.fetch_add(1, Ordering::SeqCst) < 2, "concurrency");
                    tokio::task::yield_now().await;
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    let times = {
                        let mut seen = seen.lock();
                        let times = seen.entry(id).or_default();
                        *times += 1;
                        *times
                    };
                    match (id, times) {
                        // A wish during the look comes after it.
                        (0, 1) => {
                            queue.now(0);
                            Next::Wait
                        }
                        (1, 1 | 2) => Next::Retry,
                        (2, 1) => panic!("one look must not take the others with it"),
                        (3, 1) => Next::After(Duration::from_secs(5)),
                        _ => Next::Wait,
                    }
                }
            }
        };
        let running = tokio::spawn(run(queue, wishes, 2, stop.clone(), look));
        for _ in 0..600 {
            tokio::time::advance(Duration::from_millis(100)).await;
            tokio::task::yield_now().await;
        }
        stop.cancel();
        running.await.unwrap();
        assert_eq!(*seen.lock(), BTreeMap::from([(0, 2), (1, 3), (2, 2), (3, 2), (4, 1)]));
    }

    /// If this fails, a git server that hangs keeps the operator from ending, and its successor from leading.
    #[tokio::test(start_paused = true)]
    async fn what_hangs_does_not_keep_it_from_ending() {
        let (queue, wishes) = queue::<u32>();
        queue.open();
        queue.now(0);
        let stop = CancellationToken::new();
        let (began, begun) = tokio::sync::oneshot::channel::<()>();
        let began = Arc::new(Mutex::new(Some(began)));
        let look = move |_| {
            let began = began.lock().take();
            async move {
                began.unwrap().send(()).unwrap();
                std::future::pending().await
            }
        };
        let running = tokio::spawn(run(queue, wishes, 2, stop.clone(), look));
        begun.await.unwrap();
        let asked = Instant::now();
        stop.cancel();
        running.await.unwrap();
        assert_eq!(asked.elapsed(), GRACE);
    }
}
