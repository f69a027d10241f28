//! Push receivers: a git server says that something was pushed, and the source is looked at, within a second.
//!
//! Whoever reaches the port may send anything. A sender that does not show the token learns nothing: whatever is wrong, and
//! whether there is such a source, the answer is the same. And it costs next to nothing: a bounded body is hashed, and the
//! API server is not asked. One that shows it can make its source be looked at once in a while, and nothing else; what it says
//! was pushed is not even read.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Ctx, Shared, memory::Key};
use crate::{
    adapters::cluster::Cluster,
    api::{
        GitSource,
        annotation::RECONCILE_REQUESTED_AT,
        git_source::{Receiver as Wanted, SenderType},
    },
    domain::{
        inventory::ObjectId,
        push::{Sender, TOKEN_MIN, Token},
    },
    telemetry::{http::Purpose, metrics::PushOutcome},
};

/// What the server is for, in its errors.
pub const PURPOSE: Purpose = Purpose { what: "push receivers", flag: "--receiver-addr" };
/// The most that a message may hold, in bytes. Pushes of thousands of commits are shorter: senders cut the list.
const BODY: usize = 1 << 20;
/// How often one source is made to be looked at, at most.
const GAP: Duration = Duration::from_secs(1);
/// How often tokens are read anew, so that a changed Secret counts.
const TOKENS: Duration = Duration::from_mins(1);
/// The field manager of the annotation by which a source is asked for.
const RECEIVER: &str = "countersign-receiver";
/// The key of a token in its Secret.
const TOKEN: &str = "token";

/// The receivers of all sources.
pub struct Receivers {
    all: RwLock<BTreeMap<Key, Arc<Receiver>>>,
    /// Pushes are received by every replica, whoever leads.
    cluster: Cluster,
}

struct Receiver {
    sender: Sender,
    token: Result<Token, String>,
    /// Until when it is not asked for again; whether somebody waits for that already.
    next: Mutex<(Option<Instant>, bool)>,
}

impl Receivers {
    /// None so far; sources are asked for through `cluster`.
    pub fn new(cluster: Cluster) -> Self {
        Self { all: RwLock::default(), cluster }
    }

    /// How the receiver of a source is doing.
    pub fn state(&self, key: &Key) -> Listening {
        match self.all.read().get(key).map(|receiver| &receiver.token) {
            Some(Ok(_)) => Listening::Ready,
            Some(Err(why)) => Listening::Wrong(why.clone()),
            None => Listening::Off,
        }
    }
}

/// How a receiver is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listening {
    /// It knows its token.
    Ready,
    /// Its token cannot be had; why.
    Wrong(String),
    /// None is there.
    Off,
}

/// The path at which pushes to a source are received.
pub fn path(key: &Key) -> String {
    format!("/hooks/{}/{}", key.0, key.1)
}

/// What is answered.
pub fn router(ctx: Shared) -> Router {
    Router::new().route("/hooks/{namespace}/{name}", post(receive)).with_state(ctx)
}

async fn receive(
    State(ctx): State<Shared>,
    Path(key): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> StatusCode {
    // Read and hashed also where there is no such source: how long it takes says nothing.
    let body = to_bytes(body, BODY).await.unwrap_or_default();
    let receiver = ctx.receivers.all.read().get(&key).cloned();
    if receiver.is_some_and(|receiver| shows_token(&receiver, &headers, &body)) {
        ctx.metrics.push(PushOutcome::Accepted);
        ask(&ctx, &key);
        StatusCode::ACCEPTED
    } else {
        ctx.metrics.push(PushOutcome::Refused);
        StatusCode::NOT_FOUND
    }
}

fn shows_token(receiver: &Receiver, headers: &HeaderMap, body: &[u8]) -> bool {
    let shown = headers.get(receiver.sender.header()).map(axum::http::HeaderValue::as_bytes);
    match (shown, &receiver.token) {
        (Some(shown), Ok(token)) => receiver.sender.verify(token, shown, body),
        (Some(_) | None, Ok(_) | Err(_)) => false,
    }
}

/// Asks for a source, now or as soon as it may be asked for again.
fn ask(ctx: &Shared, key: &Key) {
    let Some(receiver) = ctx.receivers.all.read().get(key).cloned() else { return };
    let at = {
        let mut next = receiver.next.lock();
        let (until, waiting) = *next;
        let now = Instant::now();
        let at = until.unwrap_or(now).max(now);
        if waiting {
            return;
        }
        *next = (Some(at + GAP), at > now);
        at
    };
    let (ctx, key) = (Arc::clone(ctx), key.clone());
    tokio::spawn(async move {
        sleep_until(at).await;
        receiver.next.lock().1 = false;
        // By the annotation, and not by our own queue: another replica may be the one that acts.
        let stamp = format!("push-{}", jiff::Timestamp::now());
        let object = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "GitSource",
            "metadata": {"name": key.1, "namespace": key.0, "annotations": {RECONCILE_REQUESTED_AT: stamp}},
        });
        if let Err(error) = ctx.receivers.cluster.apply(&object, RECEIVER).await {
            tracing::warn!(source = key.1, error = %error.explain(), "a push was received, but its source cannot be asked for");
        }
    });
}

/// Keeps the receivers as the sources say, and their tokens as the Secrets say, until the token is cancelled.
pub async fn keep(ctx: Shared, stop: CancellationToken) {
    let mut last: Option<(BTreeMap<Key, Wanted>, Instant)> = None;
    while !stop.is_cancelled() {
        let news = ctx.memory.news();
        let notified = news.notified();
        let wanted = wanted(&ctx);
        let old = last.as_ref().is_none_or(|(known, at)| *known != wanted || at.elapsed() >= TOKENS);
        if old {
            refresh(&ctx, &wanted).await;
            last = Some((wanted, Instant::now()));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = notified => {}
            () = sleep(TOKENS) => {}
        }
    }
}

fn wanted(ctx: &Ctx) -> BTreeMap<Key, Wanted> {
    let of = |(key, source): (&Key, &Arc<GitSource>)| Some((key.clone(), source.spec.receiver.clone()?));
    ctx.memory.read().sources.iter().filter_map(of).collect()
}

async fn refresh(ctx: &Ctx, wanted: &BTreeMap<Key, Wanted>) {
    let mut found = BTreeMap::new();
    for (key, wanted) in wanted {
        let (key, known) = (key.clone(), ctx.receivers.all.read().get(key).cloned());
        let (sender, token) = (sender(wanted.sender), token(ctx, &key.0, &wanted.secret_ref.name).await);
        if let Some(known) = known.filter(|known| known.sender == sender && known.token == token) {
            found.insert(key, known);
            continue;
        }
        // The status of the source says whether it works.
        ctx.sources.now(key.clone());
        found.insert(key, Arc::new(Receiver { sender, token, next: Mutex::default() }));
    }
    *ctx.receivers.all.write() = found;
}

async fn token(ctx: &Ctx, namespace: &str, name: &str) -> Result<Token, String> {
    let id = ObjectId {
        api_version: "v1".to_owned(),
        kind: "Secret".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let what = format!("Secret {namespace}/{name} (spec.receiver.secretRef)");
    let secret = match ctx.cluster.get(&id).await {
        Ok(Some(secret)) => secret,
        Ok(None) => return Err(format!("{what} does not exist; make it, with the key {TOKEN}")),
        Err(error) => return Err(format!("{what} cannot be read: {}", error.explain())),
    };
    let encoded = secret.pointer("/data").and_then(|data| data[TOKEN].as_str());
    let bytes = encoded.and_then(|text| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(text).ok()
    });
    let bytes = bytes.ok_or_else(|| format!("{what} has no key {TOKEN}; add it"))?;
    Token::new(&bytes).ok_or_else(|| {
        format!("the key {TOKEN} of {what} is shorter than {TOKEN_MIN} bytes; use a longer one")
    })
}

fn sender(wanted: SenderType) -> Sender {
    match wanted {
        SenderType::GitHub => Sender::GitHub,
        SenderType::GitLab => Sender::GitLab,
        SenderType::Gitea => Sender::Gitea,
        SenderType::Generic => Sender::Generic,
    }
}
