//! Watches that fill the memory.

use std::{collections::BTreeSet, fmt::Debug, time::Duration};

use futures::{StreamExt, pin_mut};
use kube::{Api, ResourceExt};
use kube_runtime::{
    WatchStreamExt,
    watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::memory::Key;
use crate::telemetry::http::PartHandle;

/// How long one watch request lasts before it is made anew. kube's default is 290 s, and a connection that died in silence
/// is only noticed then.
const WATCH_SECONDS: u32 = 60;

/// A change that a watch saw.
#[derive(Clone, Debug)]
pub enum Seen<K> {
    /// An object is there, as it is now.
    There(K),
    /// An object is gone.
    Gone(Key),
}

/// What it means that the API server does not serve a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// Its definition is still to come: nothing is loaded before.
    Waits,
    /// There is none of it, and may never be.
    IsNone,
}

/// Watches until the token is cancelled; the part becomes ready with the first complete list. What vanished while the watch
/// was broken comes as [`Seen::Gone`] too.
pub async fn watch<K>(
    api: Api<K>,
    unserved: Unserved,
    loaded: PartHandle,
    stop: CancellationToken,
    see: impl FnMut(Seen<K>),
) where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watch_as(watcher::Config::default(), api, unserved, loaded, stop, see).await;
}

/// The same for the one object of a name: whoever watches it needs no rights on others.
pub async fn watch_named<K>(
    api: Api<K>,
    name: &str,
    loaded: PartHandle,
    stop: CancellationToken,
    see: impl FnMut(Seen<K>),
) where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watch_as(named, api, Unserved::Waits, loaded, stop, see).await;
}

async fn watch_as<K>(
    config: watcher::Config,
    api: Api<K>,
    unserved: Unserved,
    loaded: PartHandle,
    stop: CancellationToken,
    mut see: impl FnMut(Seen<K>),
) where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = config.timeout(WATCH_SECONDS).page_size(500);
    let events = watcher(api, config).default_backoff();
    pin_mut!(events);
    let mut known: BTreeSet<Key> = BTreeSet::new();
    let mut listed: BTreeSet<Key> = BTreeSet::new();
    let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            None => return,
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(object))) => {
                listed.insert(key(&object));
                // A list that breaks off was seen all the same: what is not in the next one is gone.
                known.insert(key(&object));
                see(Seen::There(object));
            }
            Some(Ok(Event::InitDone)) => {
                for gone in known.difference(&listed) {
                    see(Seen::Gone(gone.clone()));
                }
                known.clone_from(&listed);
                loaded.ready();
            }
            Some(Ok(Event::Apply(object))) => {
                known.insert(key(&object));
                see(Seen::There(object));
            }
            Some(Ok(Event::Delete(object))) => {
                known.remove(&key(&object));
                see(Seen::Gone(key(&object)));
            }
            Some(Err(error)) if unserved == Unserved::IsNone && is_not_served(&error) => {
                for gone in std::mem::take(&mut known) {
                    see(Seen::Gone(gone));
                }
                loaded.ready();
            }
            Some(Err(error)) => {
                let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
                tracing::warn!(kind, %error, "a watch failed and is made anew");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_not_served(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}
