//! Reads bodies, of one client only so much, and of all together only so much.

use std::{future::poll_fn, pin::Pin};

use axum::body::Bytes;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Refusal;

/// What costs no budget: as good as every review fits, and so nobody who sends large bodies delays one.
const FREE: usize = 64 * 1024;
/// What is kept of a body that is not read: enough to say who asked.
const BEGINNING: usize = 1024;
/// How many times the most that is read is read and thrown away, so that a client that writes first and reads then gets to read.
const DISCARDED: usize = 4;

/// How many bytes of bodies may be held.
pub(super) struct Budget {
    body: usize,
    bytes: Semaphore,
}

/// One body; its part of the budget is given back with it.
pub(super) struct Reading<'b> {
    budget: &'b Budget,
    content: Vec<u8>,
    /// Whether nothing of it is left on the connection.
    ended: bool,
    permit: Option<SemaphorePermit<'b>>,
}

impl Budget {
    /// At most `body` bytes of one, and `bodies` of all.
    pub(super) fn new(body: usize, bodies: usize) -> Self {
        Self { body, bytes: Semaphore::new(bodies.min(Semaphore::MAX_PERMITS)) }
    }

    pub(super) fn reading(&self) -> Reading<'_> {
        Reading { budget: self, content: Vec::new(), ended: false, permit: None }
    }
}

impl Reading<'_> {
    /// Reads a body to its end. What was read is there also if this fails or is given up; of what is refused, the beginning.
    pub(super) async fn read(&mut self, mut incoming: Incoming) -> Result<(), Refusal> {
        let mut kept = Ok(());
        let mut total = 0_usize;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
            // Else the client is gone, and hears nothing.
            let frame = frame.map_err(|_| Refusal::TooLate)?;
            // Trailers are of no use.
            let Ok(data) = frame.into_data() else { continue };
            total = total.saturating_add(data.len());
            if kept.is_ok() {
                kept = self.keep(&data);
            }
            if kept.is_err() {
                self.content.truncate(BEGINNING);
                self.content.shrink_to_fit();
                self.permit = None;
                if total > self.budget.body.saturating_mul(DISCARDED) {
                    return kept;
                }
            }
        }
        self.ended = true;
        kept
    }

    fn keep(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let length = self.content.len() + data.len();
        if length > self.budget.body {
            return Err(Refusal::TooLarge);
        }
        let costs = length.saturating_sub(FREE.max(self.content.len()));
        let costs = u32::try_from(costs).map_err(|_| Refusal::TooLarge)?;
        if costs > 0 {
            let more = self.budget.bytes.try_acquire_many(costs).map_err(|_| Refusal::Busy)?;
            match &mut self.permit {
                Some(permit) => permit.merge(more),
                None => self.permit = Some(more),
            }
        }
        self.content.extend_from_slice(data);
        Ok(())
    }

    /// Whether another request can follow.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// What was read.
    pub(super) fn content(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.content))
    }
}
