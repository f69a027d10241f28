//! Answers the API server when it asks what may be let in: what of it is written otherwise first, and whether the rest passes.
//! From memory alone, on every replica.

use std::collections::BTreeMap;

use axum::body::Bytes;
use base64::Engine as _;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    attempts::Denied,
    memory::{Memory, State},
    now,
};
use crate::{
    api::{
        GROUP, lean, own,
        webhooks::{MUTATE, VALIDATE},
    },
    domain::{
        admission::{self, Asked, By, Known, Subject, Verdict, attempts, patch, review, rewrites},
        policy::{self, Judge, Policy},
        workload::WorkloadId,
    },
    telemetry::{
        Metrics,
        http::Readiness,
        https::{Answers, Refusal},
        metrics::{self, Alarm, Mode, Webhook},
    },
};

/// What answers.
pub struct Admission {
    /// What is known.
    pub memory: Memory,
    /// Whether all of it is loaded: until then nothing is answered.
    pub readiness: Readiness,
    /// The operator's own namespace.
    pub root: String,
    /// The operator's own user name, as API servers know it.
    pub user: String,
    /// What is counted.
    pub metrics: Metrics,
    /// Where what is denied is left, to be told.
    pub denied: Denied,
}

/// A review, as far as it is read. See `admission.k8s.io/v1`.
#[derive(Deserialize)]
struct Review {
    request: Asking,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asking {
    uid: String,
    kind: GroupKind,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    operation: String,
    #[serde(default)]
    dry_run: Option<bool>,
    user_info: User,
    #[serde(default, deserialize_with = "lean")]
    object: Value,
    #[serde(default, deserialize_with = "lean")]
    old_object: Value,
}

#[derive(Deserialize)]
struct GroupKind {
    group: String,
    kind: String,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

/// What is answered.
#[derive(Default)]
struct Answer {
    denial: Option<(StatusCode, String)>,
    warnings: Vec<String>,
    patch: Option<Value>,
}

impl Answers for Admission {
    async fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let Some(asked) = webhook(request) else {
            return plain(StatusCode::NOT_FOUND, "there is /validate and /mutate\n");
        };
        // Who has not read the policies yet would let everything in.
        if !self.readiness.is_ready() {
            return self.refuse(Refusal::NotReady, request);
        }
        let timer = self.metrics.time_review(asked);
        let (uid, answer) = match serde_json::from_slice::<Review>(request.body()) {
            Ok(Review { request }) => {
                let answer = match asked {
                    Webhook::Validate => self.validate(&request),
                    Webhook::Mutate => self.mutate(&request),
                };
                (request.uid, answer)
            }
            Err(error) => {
                let why = format!("Countersign cannot read this review: {error}");
                (uid_of(request.body()), Answer::denied(StatusCode::BAD_REQUEST, why))
            }
        };
        drop(timer);
        self.metrics.reviewed(asked, answer.kind());
        answer.respond(&uid)
    }

    fn refuse(&self, refusal: Refusal, request: &Request<Bytes>) -> Response<Bytes> {
        if let Some(asked) = webhook(request) {
            self.metrics.reviewed(asked, metrics::Review::Unanswered);
        }
        if let Refusal::Busy | Refusal::NotReady = refusal {
            // Before it gives up, the API server asks again, maybe another replica.
            let mut response = plain(refusal.status(), &format!("{refusal}\n"));
            response.headers_mut().insert("retry-after", http::HeaderValue::from_static("1"));
            return response;
        }
        Answer::denied(refusal.status(), refusal.to_string()).respond(&uid_of(request.body()))
    }
}

impl Admission {
    fn validate(&self, request: &Asking) -> Answer {
        if request.kind.group == GROUP {
            return self.validate_own(request);
        }
        let Some((subject, before)) = request.judged() else { return Answer::default() };
        let memory = self.memory.read();
        let policies = memory.policies_for(&request.namespace, &self.root);
        let known = known(&memory, &policies, &request.namespace);
        let verdict = review(&request.asked(subject, before, &memory), &known);
        self.tell(request, &verdict);
        Answer {
            denial: verdict.denial.map(|denial| (StatusCode::FORBIDDEN, denial.message)),
            warnings: verdict.warnings,
            patch: None,
        }
    }

    fn mutate(&self, request: &Asking) -> Answer {
        let Some((subject, before)) = request.judged() else { return Answer::default() };
        let memory = self.memory.read();
        let policies = memory.policies_for(&request.namespace, &self.root);
        let known = known(&memory, &policies, &request.namespace);
        let all = rewrites(&request.asked(subject, before, &memory), &known);
        Answer {
            denial: None,
            warnings: all.iter().filter_map(|rewrite| rewrite.warning.clone()).collect(),
            patch: (!all.is_empty()).then(|| patch(&all)),
        }
    }

    fn validate_own(&self, request: &Asking) -> Answer {
        let Some(object) = request.stored() else { return Answer::default() };
        let memory = self.memory.read();
        let policies = if request.namespace == self.root {
            memory.policies.iter().collect()
        } else {
            memory.policies_for(&request.namespace, &self.root)
        };
        let verdict = own::review_own(&own::Asked {
            kind: &request.kind.kind,
            namespace: &request.namespace,
            sub_resource: &request.sub_resource,
            object,
            before: request.before(),
            by_operator: request.user_info.username == self.user,
            root: &self.root,
            policies: &policies,
        });
        Answer {
            denial: verdict.denial.map(|message| (StatusCode::FORBIDDEN, message)),
            warnings: verdict.warnings,
            patch: None,
        }
    }

    fn tell(&self, request: &Asking, verdict: &Verdict<'_>) {
        for (policy, answer) in &verdict.answers {
            self.metrics.review_verdict(label(policy.mode), said(*answer));
        }
        if let Some(why) = verdict.goes_on {
            self.metrics.review_alarms(alarm(why), verdict.alarms.len());
        }
        for alarm in &verdict.alarms {
            tracing::error!(
                namespace = request.namespace,
                name = request.name,
                kind = request.kind.kind,
                alarm,
                "a revoked image was let in, as it runs"
            );
        }
        if let Some(denial) = &verdict.denial {
            let first = denial.refused.first();
            tracing::warn!(
                namespace = request.namespace,
                name = request.name,
                kind = request.kind.kind,
                user = request.user_info.username,
                image = first.map(|refused| refused.image.as_str()),
                policy = first.map(|refused| format!("{}/{}", refused.policy.0, refused.policy.1)),
                "denied"
            );
            if request.dry_run != Some(true) {
                for (policy, attempt) in attempts(denial, request.by(), now()) {
                    self.denied.note(policy, attempt);
                }
            }
        }
    }
}

impl Asking {
    /// What is judged, and what it was before; what goes, and what holds no images, is not.
    fn judged(&self) -> Option<(Subject, Option<&Value>)> {
        self.stored()?;
        Some((Subject::find(&self.kind.group, &self.kind.kind)?, self.before()))
    }

    /// The object as it is to be stored.
    fn stored(&self) -> Option<&Value> {
        let stores = matches!(self.operation.as_str(), "CREATE" | "UPDATE");
        stores.then_some(&self.object)
    }

    fn before(&self) -> Option<&Value> {
        (self.operation == "UPDATE").then_some(&self.old_object)
    }

    fn by(&self) -> By<'_> {
        By {
            namespace: &self.namespace,
            kind: &self.kind.kind,
            name: &self.name,
            user: &self.user_info.username,
        }
    }

    fn asked<'a>(&'a self, subject: Subject, before: Option<&'a Value>, memory: &'a State) -> Asked<'a> {
        let workload = match subject {
            Subject::Workload(kind) => {
                Some(WorkloadId { kind, namespace: self.namespace.clone(), name: self.name.clone() })
            }
            Subject::Pod | Subject::Part(_) => None,
        };
        let history = workload.and_then(|id| Some(&memory.histories.get(&id)?.history));
        Asked { subject, object: &self.object, before, history }
    }
}

fn webhook(request: &Request<Bytes>) -> Option<Webhook> {
    match request.uri().path() {
        VALIDATE => Some(Webhook::Validate),
        MUTATE => Some(Webhook::Mutate),
        _ => None,
    }
}

fn known<'a>(memory: &'a State, policies: &'a [&'a Policy], namespace: &'a str) -> Known<'a> {
    Known {
        judge: Judge { policies, ledger: &memory.ledger, evidence: &memory.evidence, namespace, now: now() },
        running: &memory.running,
        unreadable_records: memory.invalid.keys().any(|(kind, _)| *kind == "ApprovedImage"),
    }
}

impl Answer {
    fn denied(code: StatusCode, message: String) -> Self {
        Self { denial: Some((code, message)), ..Self::default() }
    }

    fn kind(&self) -> metrics::Review {
        match self {
            Self { denial: Some(_), .. } => metrics::Review::Denied,
            Self { patch: Some(_), .. } => metrics::Review::Rewritten,
            Self { .. } => metrics::Review::Allowed,
        }
    }

    fn respond(self, uid: &str) -> Response<Bytes> {
        let mut response = BTreeMap::from([("uid", json!(uid)), ("allowed", json!(self.denial.is_none()))]);
        if let Some((code, message)) = self.denial {
            let reason = if code == StatusCode::FORBIDDEN { "Forbidden" } else { "" };
            response.insert("status", json!({"code": code.as_u16(), "message": message, "reason": reason}));
        }
        if !self.warnings.is_empty() {
            response.insert("warnings", json!(self.warnings));
        }
        if let Some(patch) = self.patch {
            response.insert("patchType", json!("JSONPatch"));
            let text = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
            response.insert("patch", json!(text));
        }
        let review =
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        let mut response = Response::new(Bytes::from(review.to_string()));
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }
}

fn label(mode: policy::Mode) -> Mode {
    match mode {
        policy::Mode::Enforce => Mode::Enforce,
        policy::Mode::Warn => Mode::Warn,
        policy::Mode::Audit => Mode::Audit,
    }
}

fn alarm(why: admission::GoesOn) -> Alarm {
    match why {
        admission::GoesOn::NotRolledBackYet => Alarm::NotRolledBackYet,
        admission::GoesOn::Stays => Alarm::Stays,
    }
}

fn said(answer: admission::Answer) -> metrics::Verdict {
    match answer {
        admission::Answer::Permitted => metrics::Verdict::Permitted,
        admission::Answer::Runs => metrics::Verdict::Runs,
        admission::Answer::NotPermitted => metrics::Verdict::NotPermitted,
    }
}

fn plain(code: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::copy_from_slice(text.as_bytes()));
    *response.status_mut() = code;
    response
}

/// The uid of a review that cannot be read whole, for the answer to be one. It stands near the beginning.
fn uid_of(body: &[u8]) -> String {
    let beginning = String::from_utf8_lossy(body.get(..1024).unwrap_or(body));
    let after = beginning.split_once("\"uid\":\"").map_or("", |(_, after)| after);
    after.chars().take_while(|c| c.is_ascii_hexdigit() || *c == '-').take(36).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        Admission {
            memory: Memory::default(),
            readiness: Readiness::default(),
            root: "root".to_owned(),
            user: "operator".to_owned(),
            metrics: Metrics::new(),
            denied: Denied::default(),
        }
    }

    async fn answered(path: &str, body: &str) -> (StatusCode, Value) {
        let admission = admission();
        admission.readiness.part("all").ready();
        let request = Request::post(path).body(Bytes::from(body.to_owned())).unwrap();
        let response = admission.answer(&request).await;
        let body = serde_json::from_slice(response.body()).unwrap_or_default();
        (response.status(), body)
    }

    fn review(over: &Value) -> String {
        let mut request = json!({
            "uid": "5c1b0a4e-0000-4000-8000-00000000000f", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop", "name": "cart", "operation": "CREATE", "userInfo": {"username": "somebody"},
            "object": {"metadata": {}, "spec": {"containers": [{"name": "app", "image": "a:1"}]}}, "oldObject": null,
        });
        json_patch::merge(&mut request, over);
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
            .to_string()
    }

    /// If this fails, a replica that was started anew lets anything in until it has read what is not permitted.
    #[tokio::test]
    async fn before_everything_is_loaded_nothing_is_answered() {
        let admission = admission();
        let (policies, ledger) = (admission.readiness.part("policies"), admission.readiness.part("ledger"));
        let asked = async |path: &str| {
            let request = Request::post(path).body(Bytes::from(review(&json!({})))).unwrap();
            let response = admission.answer(&request).await;
            (response.status().as_u16(), response.headers().contains_key("retry-after"))
        };
        for path in [VALIDATE, MUTATE] {
            assert_eq!(asked(path).await, (503, true), "{path}");
        }
        policies.ready();
        assert_eq!(asked(VALIDATE).await, (503, true), "the ledger is missing");
        ledger.ready();
        assert_eq!(asked(VALIDATE).await, (200, false));
    }

    /// If this fails, the API server says that the webhook is broken, and nobody learns what is.
    #[tokio::test]
    async fn what_is_no_review_gets_a_denial_that_belongs_to_it() {
        for broken in [review(&json!({"operation": 7})), review(&json!({})).replace("]}}", "]")] {
            let (status, said) = answered(VALIDATE, &broken).await;
            assert_eq!(status, StatusCode::OK);
            assert_eq!(said["response"]["uid"], "5c1b0a4e-0000-4000-8000-00000000000f", "{said}");
            assert_eq!(said["response"]["allowed"], false);
            let message = said["response"]["status"]["message"].as_str().unwrap();
            assert!(message.contains("cannot read this review"), "{message}");
        }
        let (_, said) = answered(MUTATE, "").await;
        assert_eq!((&said["response"]["uid"], &said["response"]["allowed"]), (&json!(""), &json!(false)));
        assert_eq!(answered("/other", &review(&json!({}))).await.0, StatusCode::NOT_FOUND);
    }

    /// If this fails, what nobody governs cannot be made or deleted.
    #[tokio::test]
    async fn what_holds_no_governed_image_passes() {
        for over in [
            json!({}),
            json!({"operation": "DELETE", "object": null}),
            json!({"operation": "CONNECT"}),
            json!({"kind": {"group": "example.com", "kind": "Pod"}}),
        ] {
            for path in [VALIDATE, MUTATE] {
                let (_, said) = answered(path, &review(&over)).await;
                assert_eq!(said["response"]["allowed"], true, "{path}: {said}");
                assert_eq!(said["response"].get("patch"), None);
            }
        }
    }
}
