//! The Service of the installation, as API servers follow it: to processes beside the control plane.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::operator::ROOT;
use crate::controlplane::ControlPlane;

/// An address of this machine that an endpoint may have: not a loopback one, nor one of a link.
pub fn own_address() -> IpAddr {
    let table = std::fs::read_to_string("/proc/net/fib_trie").expect("the kernel's table of addresses");
    let mut last = None;
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        }
        let own = last.filter(|address| !address.is_loopback() && !address.is_link_local());
        if let (Some(address), "/32 host LOCAL") = (own, line) {
            return address.into();
        }
    }
    panic!("this machine has loopback addresses only, and none of these may be an endpoint: it needs another")
}

/// From now on the Service `countersign-webhook` leads to this address, too, in place of where it led for this replica.
pub async fn lead_service_to(plane: &ControlPlane, replica: &str, at: SocketAddr) {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("countersign-webhook-{replica}"), "namespace": ROOT,
            "labels": {
                "kubernetes.io/service-name": "countersign-webhook",
                // Else the controller, which knows of pods only, takes it for its own.
                "endpointslice.kubernetes.io/managed-by": "tests",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [at.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "webhook", "protocol": "TCP", "port": at.port()}],
    });
    let slices: Api<EndpointSlice> = Api::namespaced(plane.client(), ROOT);
    let name = slice["metadata"]["name"].as_str().unwrap().to_owned();
    slices.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&slice)).await.unwrap();
}
