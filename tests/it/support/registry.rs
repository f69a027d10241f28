//! An OCI registry in this process, with the referrers API; it can be counted, switched off and made hostile.
//!
//! Programs can push to it (cosign, crane); tests push by function calls.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderMap, Method, Request, Response, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE, LINK, LOCATION, WWW_AUTHENTICATE},
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign::{
    adapters::registry::{Format, Keychain, Settings},
    domain::image::{Digest, Repository},
};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, rustls};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A registry on this machine.
pub struct OciServer {
    /// As it stands in names of images: `127.0.0.1:1234`, or `localhost:1234` with TLS.
    pub host: String,
    /// Certificates to trust, with TLS.
    pub ca: Option<String>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// By the path of the repository.
    store: Mutex<BTreeMap<String, Stored>>,
    manner: Mutex<Manner>,
    hook: Mutex<Option<Hook>>,
    seen: Mutex<Vec<Seen>>,
    base: Mutex<String>,
}

#[derive(Default)]
struct Stored {
    /// Media type and bytes, by digest.
    manifests: BTreeMap<String, (String, Bytes)>,
    tags: BTreeMap<String, String>,
    blobs: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, Vec<u8>>,
}

/// How the registry behaves when no hook answers.
#[derive(Clone, Default)]
struct Manner {
    off: bool,
    no_referrers: bool,
    /// Referrers on a page; 0: all.
    page: usize,
    auth: Auth,
}

/// Who is let in.
#[derive(Clone, Default)]
pub enum Auth {
    #[default]
    Everybody,
    /// Whoever says this name and password with every request.
    Basic(&'static str, &'static str),
    /// Whoever has a token for the repository, which this realm hands out (else our own `/token`) to whoever says this name and
    /// password; to everybody, if there is none.
    Token { login: Option<(&'static str, &'static str)>, realm: Option<String> },
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
}

impl Seen {
    /// What it said in `Authorization`; empty: nothing.
    pub fn authorization(&self) -> String {
        self.headers.get(AUTHORIZATION).map(|said| said.to_str().unwrap().to_owned()).unwrap_or_default()
    }
}

pub type Answer = Response<Body>;
type Hook = Arc<dyn Fn(&Seen) -> Option<Answer> + Send + Sync>;

/// What an image is made of.
pub struct Image {
    pub os: &'static str,
    pub architecture: &'static str,
    pub created: &'static str,
    /// The lowest first, uncompressed.
    pub layers: Vec<Vec<u8>>,
    pub labels: BTreeMap<String, String>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            os: "linux",
            architecture: "amd64",
            created: "2026-11-20T09:00:00Z",
            layers: vec![b"layer".to_vec()],
            labels: BTreeMap::new(),
        }
    }
}

impl OciServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        Self::serve(listener, host, None)
    }

    pub async fn start_tls() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("localhost:{}", listener.local_addr().unwrap().port());
        let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.cert.der().clone()], key)
            .unwrap();
        Self::serve(listener, host, Some((TlsAcceptor::from(Arc::new(config)), identity.cert.pem())))
    }

    fn serve(listener: TcpListener, host: String, tls: Option<(TlsAcceptor, String)>) -> Self {
        let shared = Arc::new(Shared::default());
        let scheme = if tls.is_some() { "https" } else { "http" };
        *shared.base.lock().unwrap() = format!("{scheme}://{host}");
        let (acceptor, ca) = tls.unzip();
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, acceptor) = (Arc::clone(&accepting), acceptor.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let shared = Arc::clone(&shared);
                        async move { shared.answer(request).await }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    match acceptor {
                        None => http.serve_connection(TokioIo::new(stream), service).await,
                        // A client that does not trust us hangs up here.
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                            Err(_) => Ok(()),
                        },
                    }
                });
            }
        });
        Self { host, ca, shared }
    }

    /// A repository here, as images name it.
    pub fn repository(&self, path: &str) -> Repository {
        format!("{}/{path}", self.host).parse().unwrap()
    }

    /// `http://127.0.0.1:1234`
    pub fn base(&self) -> String {
        self.shared.base.lock().unwrap().clone()
    }

    /// Answers no more: connections break, and new ones do at once.
    pub fn off(&self) {
        self.shared.manner.lock().unwrap().off = true;
    }

    /// Answers again, with what it had.
    pub fn on(&self) {
        self.shared.manner.lock().unwrap().off = false;
    }

    /// Forgets that there is a referrers API, as older registries do not know it.
    pub fn without_referrers(&self) {
        self.shared.manner.lock().unwrap().no_referrers = true;
    }

    /// Lists so many referrers on a page.
    pub fn page(&self, referrers: usize) {
        self.shared.manner.lock().unwrap().page = referrers;
    }

    pub fn let_in(&self, auth: Auth) {
        self.shared.manner.lock().unwrap().auth = auth;
    }

    /// Asks this first; what it answers is sent instead.
    pub fn hook(&self, hook: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static) {
        *self.shared.hook.lock().unwrap() = Some(Arc::new(hook));
    }

    pub fn unhook(&self) {
        *self.shared.hook.lock().unwrap() = None;
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many requests had this in their path.
    pub fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.contains(part)).count()
    }

    pub fn forget_seen(&self) {
        self.shared.seen.lock().unwrap().clear();
    }

    pub fn push_blob(&self, path: &str, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        self.with(path, |stored| stored.blobs.insert(digest.to_string(), bytes.to_vec().into()));
        digest
    }

    /// A manifest with the media type that it states.
    pub fn push_manifest(&self, path: &str, manifest: &Value) -> Digest {
        let media_type = manifest["mediaType"].as_str().expect("a mediaType");
        self.push_raw(path, media_type, manifest.to_string().as_bytes())
    }

    /// Whatever bytes, served with this `Content-Type`.
    pub fn push_raw(&self, path: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        let manifest = (media_type.to_owned(), bytes.to_vec().into());
        self.with(path, |stored| stored.manifests.insert(digest.to_string(), manifest));
        digest
    }

    pub fn tag(&self, path: &str, tag: &str, digest: &Digest) {
        self.with(path, |stored| stored.tags.insert(tag.to_owned(), digest.to_string()));
    }

    /// Takes a manifest, a blob or a tag away.
    pub fn remove(&self, path: &str, name: &str) {
        self.with(path, |stored| {
            let manifest = stored.manifests.remove(name).is_some();
            let gone = manifest | stored.blobs.remove(name).is_some() | stored.tags.remove(name).is_some();
            assert!(gone, "{path} has no {name}");
        });
    }

    /// Media type, digest and size of a manifest that is here.
    pub fn descriptor(&self, path: &str, digest: &Digest) -> Value {
        self.with(path, |stored| {
            let (media_type, bytes) = &stored.manifests[digest.as_str()];
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        })
    }

    /// An image with its config and layers.
    pub fn push_image(&self, path: &str, image: &Image) -> Digest {
        let diff_ids: Vec<Digest> = image.layers.iter().map(|layer| self.push_blob(path, layer)).collect();
        let layers = image.layers.iter().zip(&diff_ids);
        let layers =
            layers.map(|(layer, digest)| json!({"mediaType": LAYER, "digest": digest, "size": layer.len()}));
        let layers: Vec<Value> = layers.collect();
        let config = json!({
            "created": image.created,
            "os": image.os,
            "architecture": image.architecture,
            "config": {"Labels": image.labels},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string();
        let digest = self.push_blob(path, config.as_bytes());
        let config = json!({"mediaType": CONFIG, "digest": digest, "size": config.len()});
        self.push_manifest(
            path,
            &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}),
        )
    }

    /// An index of images that are here, each with its platform.
    pub fn push_index(&self, path: &str, images: &[(Digest, &str, &str)]) -> Digest {
        let entry = |(digest, os, architecture): &(Digest, &str, &str)| {
            let mut entry = self.descriptor(path, digest);
            entry["platform"] = json!({"os": os, "architecture": architecture});
            entry
        };
        let manifests: Vec<Value> = images.iter().map(entry).collect();
        self.push_manifest(path, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
    }

    /// Something that refers to a manifest that is here: one blob, as cosign's bundles are.
    pub fn attach(
        &self,
        path: &str,
        subject: &Digest,
        artifact_type: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Digest {
        let blob = self.push_blob(path, bytes);
        let empty = self.push_blob(path, b"{}");
        self.push_manifest(
            path,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": artifact_type,
                "config": {"mediaType": EMPTY, "digest": empty, "size": 2},
                "layers": [{"mediaType": media_type, "digest": blob, "size": bytes.len()}],
                "subject": self.descriptor(path, subject),
                "annotations": {"dev.countersign.test": "yes"},
            }),
        )
    }

    fn with<T>(&self, path: &str, work: impl FnOnce(&mut Stored) -> T) -> T {
        work(self.shared.store.lock().unwrap().entry(path.to_owned()).or_default())
    }
}

/// How these registries are reached, and no others.
pub fn settings(servers: &[&OciServer]) -> Settings {
    Settings {
        ca: servers.iter().filter_map(|server| server.ca.clone()).collect(),
        plain_http: servers
            .iter()
            .filter(|server| server.ca.is_none())
            .map(|server| server.host.clone())
            .collect(),
        private: "127.0.0.1,localhost".parse().unwrap(),
        ..Settings::default()
    }
}

/// The pull secret `apps/pull`, for a host or a part of it.
pub fn keychain(scope: &str, username: &str, password: &str) -> Keychain {
    let mut keychain = Keychain::default();
    let config = json!({"auths": {scope: {"username": username, "password": password}}});
    keychain.add("apps/pull", Format::DockerConfigJson, config.to_string().as_bytes()).unwrap();
    keychain
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes))).parse().unwrap()
}

/// An answer with a body.
pub fn answer(status: u16, content_type: &str, body: impl Into<Body>) -> Answer {
    Response::builder().status(status).header(CONTENT_TYPE, content_type).body(body.into()).unwrap()
}

/// A refusal as registries write it.
pub fn refusal(status: u16, code: &str) -> Answer {
    answer(status, "application/json", json!({"errors": [{"code": code, "message": "no"}]}).to_string())
}

fn bare(status: StatusCode, headers: &[(&str, String)]) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Body::empty()).unwrap()
}

impl Shared {
    async fn answer(&self, request: Request<hyper::body::Incoming>) -> io::Result<Answer> {
        let (head, body) = request.into_parts();
        let seen = Seen {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
        };
        self.seen.lock().unwrap().push(seen.clone());
        let manner = self.manner.lock().unwrap().clone();
        if manner.off {
            return Err(io::Error::other("switched off"));
        }
        let hook = self.hook.lock().unwrap().clone();
        if let Some(answer) = hook.and_then(|hook| hook(&seen)) {
            return Ok(answer);
        }
        let body = axum::body::to_bytes(Body::new(body), 64 << 20).await.map_err(io::Error::other)?;
        Ok(self.honest(&manner, &seen, body))
    }

    fn honest(&self, manner: &Manner, seen: &Seen, body: Bytes) -> Answer {
        if seen.path == "/token" {
            return self.token(manner, seen);
        }
        let Some(rest) = seen.path.strip_prefix("/v2/") else { return refusal(404, "UNSUPPORTED") };
        let split = ["/manifests/", "/blobs/uploads/", "/blobs/", "/referrers/"]
            .iter()
            .find_map(|kind| rest.split_once(kind).map(|(path, name)| (*kind, path, name)));
        let (kind, path, name) = split.unwrap_or(("", "", ""));
        if let Some(refused) = self.refused(manner, seen, path) {
            return refused;
        }
        let mut store = self.store.lock().unwrap();
        if seen.method == Method::GET || seen.method == Method::HEAD {
            let Some(stored) = store.get(path) else {
                return if rest.is_empty() {
                    answer(200, "application/json", "{}")
                } else {
                    refusal(404, "NAME_UNKNOWN")
                };
            };
            return match kind {
                "/manifests/" => stored.manifest(name),
                "/blobs/" => stored.blobs.get(name).map_or_else(
                    || refusal(404, "BLOB_UNKNOWN"),
                    |bytes| answer(200, "application/octet-stream", bytes.clone()),
                ),
                "/referrers/" if !manner.no_referrers => stored.referrers(name, manner.page, seen),
                // As distribution answers, which has no such thing.
                _ => answer(404, "text/plain", "404 page not found\n"),
            };
        }
        let stored = store.entry(path.to_owned()).or_default();
        match (kind, &seen.method) {
            ("/manifests/", &Method::PUT) => stored.put_manifest(name, seen, body, manner.no_referrers),
            ("/blobs/uploads/", method) => stored.upload(method, name, seen, &body),
            _ => refusal(405, "UNSUPPORTED"),
        }
    }

    /// The token is what it is for: nobody has to remember it.
    #[allow(clippy::unused_self, reason = "as its siblings")]
    fn token(&self, manner: &Manner, seen: &Seen) -> Answer {
        let Auth::Token { login, .. } = &manner.auth else { return refusal(404, "UNSUPPORTED") };
        if login.is_some_and(|(name, password)| seen.authorization() != basic(name, password)) {
            return refusal(401, "UNAUTHORIZED");
        }
        let scope = url::form_urlencoded::parse(seen.query.as_bytes()).find(|(name, _)| name == "scope");
        let scope = scope.map(|(_, scope)| scope.into_owned()).unwrap_or_default();
        let token = format!("token-{}", hex::encode(scope));
        answer(200, "application/json", json!({"token": token, "expires_in": 300}).to_string())
    }

    fn refused(&self, manner: &Manner, seen: &Seen, path: &str) -> Option<Answer> {
        let said = seen.authorization();
        let challenge = match &manner.auth {
            Auth::Everybody => return None,
            Auth::Basic(name, password) if said == basic(name, password) => return None,
            Auth::Basic(..) => "Basic realm=\"here\"".to_owned(),
            Auth::Token { realm, .. } => {
                let scopes =
                    ["pull", "pull,push", "push,pull"].map(|actions| format!("repository:{path}:{actions}"));
                if scopes.iter().any(|scope| said == format!("Bearer token-{}", hex::encode(scope))) {
                    return None;
                }
                let realm = realm.clone().unwrap_or_else(|| format!("{}/token", self.base.lock().unwrap()));
                let actions = if seen.method == Method::GET || seen.method == Method::HEAD {
                    "pull"
                } else {
                    "pull,push"
                };
                format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:{path}:{actions}\"")
            }
        };
        let mut refused = refusal(401, "UNAUTHORIZED");
        refused.headers_mut().insert(WWW_AUTHENTICATE, challenge.parse().unwrap());
        Some(refused)
    }
}

impl Stored {
    fn manifest(&self, name: &str) -> Answer {
        let digest = self.tags.get(name).map_or(name, String::as_str);
        let Some((media_type, bytes)) = self.manifests.get(digest) else {
            return refusal(404, "MANIFEST_UNKNOWN");
        };
        let mut found = answer(200, media_type, bytes.clone());
        found.headers_mut().insert("docker-content-digest", digest.parse().unwrap());
        found
    }

    fn referrers(&self, subject: &str, page: usize, seen: &Seen) -> Answer {
        let query: BTreeMap<String, String> =
            url::form_urlencoded::parse(seen.query.as_bytes()).into_owned().collect();
        let filter = query.get("artifactType");
        let mut found = Vec::new();
        for (digest, (media_type, bytes)) in &self.manifests {
            let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
            if manifest["subject"]["digest"] != *subject {
                continue;
            }
            let own_type = manifest["artifactType"].as_str().or(manifest["config"]["mediaType"].as_str());
            if filter.is_some_and(|filter| own_type != Some(filter)) {
                continue;
            }
            found.push(json!({
                "mediaType": media_type,
                "digest": digest,
                "size": bytes.len(),
                "artifactType": own_type,
                "annotations": manifest["annotations"],
            }));
        }
        let from: usize = query.get("from").map_or(0, |from| from.parse().unwrap());
        let to = if page == 0 { found.len() } else { found.len().min(from + page) };
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": &found[from..to]});
        let mut listed = answer(200, INDEX, index.to_string());
        let headers = listed.headers_mut();
        if let Some(filter) = filter {
            headers.insert("oci-filters-applied", "artifactType".parse().unwrap());
            if to < found.len() {
                let filter = filter.replace('+', "%2B");
                let link = format!("<{}?artifactType={filter}&from={to}>; rel=\"next\"", seen.path);
                headers.insert(LINK, link.parse().unwrap());
            }
        } else if to < found.len() {
            headers.insert(LINK, format!("<{}?from={to}>; rel=\"next\"", seen.path).parse().unwrap());
        }
        listed
    }

    fn put_manifest(&mut self, name: &str, seen: &Seen, body: Bytes, no_referrers: bool) -> Answer {
        let digest = digest_of(&body).to_string();
        if name.contains(':') && name != digest {
            return refusal(400, "DIGEST_INVALID");
        }
        let Ok(manifest) = serde_json::from_slice::<Value>(&body) else {
            return refusal(400, "MANIFEST_INVALID");
        };
        let media_type = seen.headers.get(CONTENT_TYPE).map_or(MANIFEST, |kind| kind.to_str().unwrap());
        self.manifests.insert(digest.clone(), (media_type.to_owned(), body));
        if name != digest {
            self.tags.insert(name.to_owned(), digest.clone());
        }
        let mut headers = vec![("location", seen.path.clone()), ("docker-content-digest", digest)];
        if let Some(subject) = manifest["subject"]["digest"].as_str()
            && !no_referrers
        {
            headers.push(("oci-subject", subject.to_owned()));
        }
        bare(StatusCode::CREATED, &headers)
    }

    fn upload(&mut self, method: &Method, id: &str, seen: &Seen, body: &[u8]) -> Answer {
        let digest = url::form_urlencoded::parse(seen.query.as_bytes()).find(|(name, _)| name == "digest");
        let id = if id.is_empty() { format!("upload-{}", self.uploads.len()) } else { id.to_owned() };
        let bytes = self.uploads.entry(id.clone()).or_default();
        bytes.extend_from_slice(body);
        let base = seen.path.split("/blobs/").next().unwrap_or_default();
        match (method, digest) {
            (&Method::PUT | &Method::POST, Some((_, digest))) => {
                let bytes = std::mem::take(bytes);
                if digest_of(&bytes).as_str() != digest {
                    return refusal(400, "DIGEST_INVALID");
                }
                self.blobs.insert(digest.to_string(), bytes.into());
                let headers = [
                    ("location", format!("{base}/blobs/{digest}")),
                    ("docker-content-digest", digest.into_owned()),
                ];
                bare(StatusCode::CREATED, &headers)
            }
            (&Method::POST | &Method::PATCH, None) => {
                let end = bytes.len().saturating_sub(1);
                let headers = [
                    (LOCATION.as_str(), format!("{base}/blobs/uploads/{id}")),
                    ("range", format!("0-{end}")),
                ];
                bare(StatusCode::ACCEPTED, &headers)
            }
            _ => refusal(405, "UNSUPPORTED"),
        }
    }
}

pub fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}
