//! In whose name, and how far, requests go.

use http::{HeaderName, HeaderValue, Request, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{Cluster, Error};
use crate::domain::inventory::ObjectId;

const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl Cluster {
    /// The same cluster, asked in the name of a service account: the API server gives it that account's rights (and the
    /// groups of every service account), and asks whether this process may impersonate it.
    #[must_use]
    pub fn acting_as(&self, account: Account) -> Self {
        Self { account: Some(account), ..self.clone() }
    }

    /// The same cluster, of which nothing outside one namespace is written or read.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Self {
        Self { only: Some(namespace.to_owned()), ..self.clone() }
    }

    /// The namespace that is reached; empty: all of them.
    pub fn reaches(&self) -> &str {
        self.only.as_deref().unwrap_or_default()
    }

    /// Who this process is to the API server.
    pub async fn user(&self) -> Result<String, Error> {
        let (operation, object) = ("look up", "the user that this process is to the API server");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(kube::core::request::Error::BuildRequest);
        let answer: Value = self.send(operation, object, request).await?;
        let name = answer.pointer("/status/userInfo/username").and_then(Value::as_str).map(str::to_owned);
        name.ok_or_else(|| Error::Malformed {
            operation,
            object: object.to_owned(),
            why: "the answer has no name".to_owned(),
        })
    }

    /// Every request passes here before it is made.
    pub(super) fn allow(
        &self,
        operation: &'static str,
        namespaced: bool,
        id: &ObjectId,
    ) -> Result<(), Error> {
        match &self.only {
            Some(only) if !namespaced || id.namespace != *only => {
                Err(Error::Outside { operation, object: id.to_string(), namespace: only.clone() })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn sign(&self, request: &mut Request<Vec<u8>>) -> Result<(), String> {
        if let Some(account) = &self.account {
            let user = HeaderValue::from_str(&account.to_string())
                .map_err(|_| format!("{:?} is no name of a service account", account.name))?;
            request.headers_mut().insert(IMPERSONATE_USER, user);
        }
        Ok(())
    }
}
