//! Requests to the API server as bytes, and all of its answers: codes, texts, warnings.

use kube::{Client, client::Body};
use serde_json::Value;

/// A client that takes neither requests nor answers for anything.
#[derive(Clone)]
pub struct Raw(Client);

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    /// The path with its query.
    pub path: String,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

/// What the API server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Accepted,
    /// The operator refused it.
    Denied,
    /// The API server refused it by itself.
    Refused,
    /// The API server asked the operator, and got no answer.
    Unanswered,
}

impl Raw {
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    pub async fn send(&self, request: &Request) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// Fails where there is no answer at all.
    pub async fn try_send(&self, request: &Request) -> kube::Result<Answer> {
        let built = http::Request::builder()
            .method(request.method)
            .uri(&request.path)
            .header("content-type", request.content_type)
            .body(Body::from(request.body.clone()))
            .unwrap();
        let answer = self.0.send(built).await?;
        let code = answer.status().as_u16();
        let warnings = answer.headers().get_all("warning").iter();
        let warnings = warnings.map(|value| warning(&String::from_utf8_lossy(value.as_bytes()))).collect();
        let bytes = answer.into_body().collect_bytes().await?;
        // Some errors are plain texts.
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { code, body, warnings })
    }

    pub async fn get(&self, path: String) -> Value {
        let request = Request { method: "GET", path, content_type: "application/json", body: Vec::new() };
        let answer = self.send(&request).await;
        assert_eq!(answer.code, 200, "{}: {}", request.path, answer.text());
        answer.body
    }
}

impl Answer {
    pub fn outcome(&self) -> Outcome {
        let text = self.text();
        if self.code < 300 {
            Outcome::Accepted
        } else if text.contains("failed calling webhook") {
            Outcome::Unanswered
        } else if text.contains(".countersign.dev\" denied the request: ") {
            Outcome::Denied
        } else {
            Outcome::Refused
        }
    }

    /// What it says of a refusal.
    pub fn text(&self) -> &str {
        self.body["message"].as_str().or(self.body.as_str()).unwrap_or_default()
    }

    /// What the operator has the client told.
    pub fn told(&self) -> Vec<&str> {
        let own = self.warnings.iter().filter(|warning| warning.starts_with("countersign: "));
        own.map(String::as_str).collect()
    }
}

/// The text of a header `299 - "text"`.
fn warning(header: &str) -> String {
    let text = header.split_once('"').map_or(header, |(_, rest)| rest.trim_end_matches('"'));
    text.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// The lists of a pod spec that name images, and where in an entry.
pub const LISTS: [(&str, &str); 4] = [
    ("containers", "/image"),
    ("initContainers", "/image"),
    ("ephemeralContainers", "/image"),
    ("volumes", "/image/reference"),
];

/// The images that the lists of a pod spec name: `(list, name, image)`.
pub fn images_of(spec: &Value) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for (list, image) in LISTS {
        for entry in spec[list].as_array().into_iter().flatten() {
            let name = entry["name"].as_str().unwrap_or_default();
            let image = entry.pointer(image).and_then(Value::as_str);
            found.extend(image.map(|image| (list.to_owned(), name.to_owned(), image.to_owned())));
        }
    }
    found
}

/// Every image that an object names in such lists, wherever they stand.
pub fn images_in(object: &Value) -> Vec<(String, String, String)> {
    match object {
        Value::Object(fields) => {
            let inside = fields.values().flat_map(images_in);
            images_of(object).into_iter().chain(inside).collect()
        }
        Value::Array(entries) => entries.iter().flat_map(images_in).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}
