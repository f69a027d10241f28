//! What is asked about: objects that are a pod, or hold a template of one.

use serde_json::Value;

use crate::domain::workload::{ContainerId, Kind, kinds};

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A Pod, also by its sub-resources: they come with all of it.
    Pod,
    /// What makes Pods and is no workload: mostly a part of one.
    Part(&'static Part),
    /// A workload.
    Workload(&'static Kind),
}

/// A kind that makes Pods and is no workload.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// The API group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The resource.
    pub plural: &'static str,
    /// Where the pod template stands in an object.
    pub template: &'static [&'static str],
}

/// Every kind that makes Pods and is no workload.
pub const PARTS: [Part; 4] = [
    Part {
        group: "apps",
        version: "v1",
        kind: "ReplicaSet",
        plural: "replicasets",
        template: &["spec", "template"],
    },
    Part {
        group: "",
        version: "v1",
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        template: &["spec", "template"],
    },
    Part { group: "batch", version: "v1", kind: "Job", plural: "jobs", template: &["spec", "template"] },
    Part { group: "", version: "v1", kind: "PodTemplate", plural: "podtemplates", template: &["template"] },
];

impl Subject {
    /// What an object of this group and kind is; `None`: nothing that is judged.
    pub fn find(group: &str, kind: &str) -> Option<Self> {
        if (group, kind) == ("", "Pod") {
            return Some(Self::Pod);
        }
        let part = || PARTS.iter().find(|part| (part.group, part.kind) == (group, kind)).map(Self::Part);
        let workload = kinds().find(|row| (row.group, row.kind) == (group, kind)).map(Self::Workload);
        workload.or_else(part)
    }

    /// Where the pod template stands in an object; a Pod is one itself.
    pub fn template(self) -> &'static [&'static str] {
        match self {
            Self::Pod => &[],
            Self::Part(part) => part.template,
            Self::Workload(kind) => kind.template,
        }
    }

    /// The pod template of an object.
    pub fn template_of(self, object: &Value) -> Option<&Value> {
        self.template().iter().try_fold(object, |value, part| value.get(part))
    }

    /// A place in it, as kubectl writes paths: `spec.template.spec.containers[app]`.
    pub(super) fn path(self, place: &ContainerId) -> String {
        let template = self.template().iter().flat_map(|part| [part, "."]).collect::<String>();
        // Where entries have no names, theirs are `[0]`.
        let name = place.name.trim_start_matches('[').trim_end_matches(']').escape_debug();
        format!("{template}spec.{}[{name}]", place.list.field())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kind that is not found is let in unseen.
    #[test]
    fn every_kind_that_holds_a_pod_template_is_found_and_its_places_have_paths() {
        let place = |text: &str| text.parse::<ContainerId>().unwrap();
        for (group, kind, path) in [
            ("", "Pod", "spec.initContainers[x]"),
            ("", "ReplicationController", "spec.template.spec.initContainers[x]"),
            ("", "PodTemplate", "template.spec.initContainers[x]"),
            ("batch", "Job", "spec.template.spec.initContainers[x]"),
            ("apps", "ReplicaSet", "spec.template.spec.initContainers[x]"),
            ("apps", "DaemonSet", "spec.template.spec.initContainers[x]"),
            ("batch", "CronJob", "spec.jobTemplate.spec.template.spec.initContainers[x]"),
        ] {
            let subject = Subject::find(group, kind).unwrap();
            assert_eq!(subject.path(&place("initContainers/x")), path);
        }
        assert_eq!(Subject::Pod.path(&place("containers/[0]")), "spec.containers[0]");
        assert_eq!(Subject::find("apps", "Pod"), None);
        assert_eq!(Subject::find("", "Deployment"), None);
    }
}
