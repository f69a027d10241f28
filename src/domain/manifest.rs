//! Reads Kubernetes manifests from untrusted YAML, as kubectl would, or refuses them.
