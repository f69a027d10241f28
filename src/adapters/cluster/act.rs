//! The writes that plans decide. Nothing is chosen here: an action carries everything, and what it expects to find.

use serde_json::{Value, json};

use super::{Cluster, Error};
use crate::domain::{
    inventory::ObjectId,
    ownership::{MANAGER, take_over, without_own_updates},
    plan::{Action, Change, Expect, ImageChange},
    workload::WorkloadId,
};

/// What became of an action.
#[derive(Clone, Debug)]
pub enum Done {
    /// It is done; the object as stored.
    Applied(Box<Value>),
    /// The API server refused it, and what the action says to do instead is done; the object as stored.
    Instead(Box<Value>),
    /// The world moved on since the plan was made, and nothing was written.
    Stale,
}

impl Cluster {
    /// Does what a plan decided.
    ///
    /// # Guarantees
    /// An action that was decided for another object, or another version of it, changes no image and answers
    /// [`Done::Stale`].
    ///
    /// # Caveats
    /// An action that expects no object is sent as an apply, for which the API server knows no such precondition: an object
    /// that was created in the meantime is applied over, as git owns it, and the next plan takes over what else is in it.
    ///
    /// # Errors
    /// What the API server refuses for another reason, and what does not reach it.
    pub async fn act(&self, id: &WorkloadId, action: &Action) -> Result<Done, Error> {
        let done = self.change(id, &action.change, action.expect.as_ref()).await;
        match (done, &action.instead) {
            (Err(error), Some(instead)) if matches!(error.code(), Some(400 | 403 | 422)) => {
                tracing::warn!(workload = %id, error = %error.explain(), "refused as a whole; its pod template alone is put back");
                Ok(match self.change(id, instead, action.expect.as_ref()).await? {
                    Done::Applied(stored) => Done::Instead(stored),
                    done @ (Done::Instead(_) | Done::Stale) => done,
                })
            }
            (done, _) => done,
        }
    }

    async fn change(&self, id: &WorkloadId, change: &Change, expect: Option<&Expect>) -> Result<Done, Error> {
        let object = ObjectId {
            api_version: id.kind.api_version(),
            kind: id.kind.kind.to_owned(),
            namespace: id.namespace.clone(),
            name: id.name.clone(),
        };
        let answer = match (change, expect) {
            (Change::Apply { object: desired, take_over: false }, expect) => {
                self.apply(&expecting(desired, expect), MANAGER).await
            }
            (Change::Apply { object: desired, take_over: true }, expect) => {
                let Some(version) = self.take_over(id, &object, expect).await? else {
                    return Ok(Done::Stale);
                };
                let expect = expect.map(|expect| Expect { resource_version: version, ..expect.clone() });
                self.apply(&expecting(desired, expect.as_ref()), MANAGER).await
            }
            (Change::Images(changes), Some(expect)) => {
                let answer = self.json_patch(&object, image_patch(id, changes, expect)).await;
                match answer {
                    // A failed test and a refused object have the same status: look which it was.
                    Err(error)
                        if error.code() == Some(422)
                            && self.moved_on(id, &object, changes, expect).await? =>
                    {
                        return Ok(Done::Stale);
                    }
                    answer => answer,
                }
            }
            (Change::Template(template), Some(expect)) => {
                let patch = json!([
                    {"op": "test", "path": "/metadata/uid", "value": expect.uid},
                    {"op": "replace", "path": "/metadata/resourceVersion", "value": expect.resource_version},
                    {"op": "replace", "path": id.kind.template_pointer(), "value": template},
                ]);
                self.json_patch(&object, patch).await
            }
            (Change::DropEntry, Some(expect)) => {
                let Some(fields) = self.managed_fields(&object, expect).await? else {
                    return Ok(Done::Stale);
                };
                self.json_patch(&object, fields_patch(expect, without_own_updates(&fields))).await
            }
            (Change::Images(_) | Change::Template(_) | Change::DropEntry, None) => return Ok(Done::Stale),
        };
        match answer {
            Ok(object) => Ok(Done::Applied(Box::new(object))),
            Err(error) if matches!(error.code(), Some(404 | 409)) && expect.is_some() => Ok(Done::Stale),
            Err(error) => Err(error),
        }
    }

    /// Moves what others own in the pod spec into our entry; answers with the new version, or nothing when it is stale.
    async fn take_over(
        &self,
        id: &WorkloadId,
        object: &ObjectId,
        expect: Option<&Expect>,
    ) -> Result<Option<String>, Error> {
        let Some(expect) = expect else { return Ok(None) };
        let Some(fields) = self.managed_fields(object, expect).await? else { return Ok(None) };
        let fields = take_over(&fields, id.kind.template, &object.api_version);
        match self.json_patch(object, fields_patch(expect, fields)).await {
            Ok(stored) => {
                Ok(stored.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned))
            }
            Err(error) if matches!(error.code(), Some(404 | 409 | 422)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn managed_fields(&self, object: &ObjectId, expect: &Expect) -> Result<Option<Vec<Value>>, Error> {
        let Some(found) = self.get(object).await? else { return Ok(None) };
        let is = |pointer: &str, value: &str| found.pointer(pointer).and_then(Value::as_str) == Some(value);
        if !is("/metadata/uid", &expect.uid) || !is("/metadata/resourceVersion", &expect.resource_version) {
            return Ok(None);
        }
        let fields = found.pointer("/metadata/managedFields").and_then(Value::as_array);
        Ok(Some(fields.cloned().unwrap_or_default()))
    }

    async fn moved_on(
        &self,
        id: &WorkloadId,
        object: &ObjectId,
        changes: &[ImageChange],
        expect: &Expect,
    ) -> Result<bool, Error> {
        let Some(found) = self.get(object).await? else { return Ok(true) };
        let base = id.kind.template_pointer();
        let is = |pointer: &str, value: &str| found.pointer(pointer).and_then(Value::as_str) == Some(value);
        let as_expected = is("/metadata/uid", &expect.uid)
            && changes.iter().all(|change| {
                is(&format!("{base}{}", change.name_pointer), &change.name)
                    && is(&format!("{base}{}", change.pointer), &change.expect)
            });
        Ok(!as_expected)
    }
}

/// The object with its precondition: the API server refuses an apply whose UID or version differs.
fn expecting(desired: &Value, expect: Option<&Expect>) -> Value {
    let mut object = desired.clone();
    if let Some(expect) = expect {
        object["metadata"]["uid"] = Value::from(expect.uid.as_str());
        object["metadata"]["resourceVersion"] = Value::from(expect.resource_version.as_str());
    }
    object
}

fn image_patch(id: &WorkloadId, changes: &[ImageChange], expect: &Expect) -> Value {
    let base = id.kind.template_pointer();
    let at = |pointer: &str| format!("{base}{pointer}");
    let tests = changes.iter().flat_map(|change| {
        [
            json!({"op": "test", "path": at(&change.name_pointer), "value": change.name}),
            json!({"op": "test", "path": at(&change.pointer), "value": change.expect}),
        ]
    });
    let sets = changes
        .iter()
        .map(|change| json!({"op": "replace", "path": at(&change.pointer), "value": change.set}));
    let uid = json!({"op": "test", "path": "/metadata/uid", "value": expect.uid});
    std::iter::once(uid).chain(tests).chain(sets).collect()
}

/// A replaced resourceVersion is a precondition: the API server answers 409 when the object has another.
fn fields_patch(expect: &Expect, fields: Vec<Value>) -> Value {
    // An empty list means "no change"; a list with one empty entry clears it.
    let fields = if fields.is_empty() { vec![json!({})] } else { fields };
    json!([
        {"op": "test", "path": "/metadata/uid", "value": expect.uid},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": expect.resource_version},
        {"op": "replace", "path": "/metadata/managedFields", "value": fields},
    ])
}
