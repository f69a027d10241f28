//! The Kubernetes kinds of the API group `countersign.dev`, version `v1alpha1`.
