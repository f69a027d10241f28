//! Admission, put together: the certificate, the server that answers, and, by the one that leads, what the API server is told
//! to ask.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    admit::Admission,
    certify::{Certificates, Source},
    register::{self, Registrar},
};
use crate::{
    adapters::cluster::Cluster,
    api::webhooks::Endpoint,
    domain::{certificate::Terms, workload::kinds},
    telemetry::{
        http::{Error, Purpose},
        https::{Bounds, Server},
    },
};

/// How admission is served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the API server asks.
    pub addr: SocketAddr,
    /// How it gets there.
    pub endpoint: Endpoint,
    /// Where somebody else puts the certificate; absent: the operator makes its own.
    pub cert_dir: Option<PathBuf>,
}

/// What the server is for, in its errors.
const PURPOSE: Purpose = Purpose { what: "admission", flag: "--webhook-addr" };
/// How long after a question to the API server that failed it is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// Admission as it is served by this process, whoever leads.
pub(super) struct Serving {
    certificates: Certificates,
    /// This process makes them.
    own: bool,
    endpoint: Endpoint,
    /// The last request is answered.
    pub ended: CancellationToken,
}

impl Serving {
    /// Begins to serve, as soon as there is a certificate.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn begin(
        ctx: &Shared,
        settings: &Settings,
        open: Client,
        stop: &CancellationToken,
    ) -> Result<Self, Error> {
        let part = ctx.readiness.part("certificate");
        let certificates = Certificates::new(ctx.metrics.clone(), part);
        let server = Server::bind(settings.addr, PURPOSE, certificates.served(), Bounds::default()).await?;
        tracing::info!(address = %server.addr(), "answering about admission");
        let cluster = Cluster::new(open);
        let source = match &settings.cert_dir {
            Some(directory) => Source::Directory(directory.clone()),
            None => Source::Own {
                cluster: cluster.clone(),
                root: ctx.root.clone(),
                names: settings.endpoint.names(&ctx.root),
                terms: Terms::default(),
            },
        };
        tokio::spawn(certificates.clone().keep(source, stop.clone()));
        let (at, until) = (Arc::clone(ctx), stop.clone());
        let known = ctx.readiness.part("own_name");
        let ended = CancellationToken::new();
        let ending = ended.clone().drop_guard();
        tokio::spawn(async move {
            let _ending = ending;
            let Some(user) = until.run_until_cancelled(own_name(&cluster)).await else { return };
            known.ready();
            let answers = Admission {
                memory: at.memory.clone(),
                readiness: at.readiness.clone(),
                root: at.root.clone(),
                user,
                metrics: at.metrics.clone(),
                denied: at.denied.clone(),
            };
            server.serve(Arc::new(answers), until).await;
        });
        Ok(Self {
            certificates,
            own: settings.cert_dir.is_none(),
            endpoint: settings.endpoint.clone(),
            ended,
        })
    }

    /// Keeps what the API server is told to ask. For the one that leads.
    pub async fn register(&self, ctx: Shared, stop: CancellationToken) {
        let mut bundle = self.certificates.bundle();
        if self.own {
            let known = stop.run_until_cancelled(bundle.wait_for(Option::is_some)).await;
            if !matches!(known, Some(Ok(_))) {
                return;
            }
        }
        let certificates = self.certificates.clone();
        let registrar = Registrar {
            cluster: ctx.cluster.clone(),
            memory: ctx.memory.clone(),
            metrics: ctx.metrics.clone(),
            root: ctx.root.clone(),
            kinds: kinds().collect(),
            endpoint: self.endpoint.clone(),
            ca: bundle,
            stored: Box::new(move |bundles| certificates.registered(bundles)),
        };
        register::run(registrar, stop).await;
    }
}

/// The name that this process has for API servers: what it writes itself is told by it.
async fn own_name(cluster: &Cluster) -> String {
    loop {
        match cluster.user().await {
            Ok(user) => return user,
            Err(error) => {
                tracing::warn!(error = %error.explain(), "the API server does not say who this is; nothing is answered yet");
                sleep(AGAIN).await;
            }
        }
    }
}
