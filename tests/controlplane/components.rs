//! The command line and files of each component.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::binaries::{APISERVER, CONTROLLER_MANAGER, ETCD, KWOK, SCHEDULER};
use super::certificates::{Authority, Certified, token_keys};
use super::processes::free_port;
use super::{Audit, Options};

/// What every component's command line is made of.
pub struct Components {
    programs: BTreeMap<&'static str, PathBuf>,
    directory: PathBuf,
    options: Options,
    etcd_port: u16,
    etcd_peer_port: u16,
    apiserver_port: u16,
    pub authority: Authority,
}

impl Components {
    /// Chooses ports and writes all files: keys, kubeconfigs, audit policy, stages.
    pub fn prepare(
        programs: BTreeMap<&'static str, PathBuf>,
        directory: &Path,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let components = Self {
            programs,
            directory: directory.to_owned(),
            options: options.clone(),
            etcd_port: free_port()?,
            etcd_peer_port: free_port()?,
            apiserver_port: free_port()?,
            authority: Authority::new()?,
        };
        let authority = &components.authority;
        components.write("ca.crt", &authority.pem())?;
        let serving = authority.server(&["127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1"])?;
        components.write("apiserver.crt", &serving.certificate)?;
        components.write("apiserver.key", &serving.key)?;
        let (private, public) = token_keys()?;
        components.write("tokens.key", &private)?;
        components.write("tokens.pub", &public)?;
        components.write("audit-policy.yaml", audit_policy(options.audit))?;
        components.write("kwok.yaml", include_str!("kwok-stages.yaml"))?;
        // The names that the API server's own roles are bound to.
        let masters = Some("system:masters");
        for (file, user, group) in [
            ("kubeconfig", "admin", masters),
            ("controller-manager.kubeconfig", "system:kube-controller-manager", None),
            ("scheduler.kubeconfig", "system:kube-scheduler", None),
            ("kwok.kubeconfig", "kwok", masters),
        ] {
            let Certified { certificate, key } = authority.client(user, group)?;
            let credentials = format!(
                "client-certificate-data: {}\n    client-key-data: {}",
                BASE64_STANDARD.encode(certificate),
                BASE64_STANDARD.encode(key)
            );
            components.write(file, &components.kubeconfig(user, &credentials))?;
        }
        Ok(components)
    }

    /// A kubeconfig for this API server; `credentials` are the lines below `user:`.
    pub fn kubeconfig(&self, user: &str, credentials: &str) -> String {
        let ca = BASE64_STANDARD.encode(self.authority.pem());
        format!(
            "apiVersion: v1\nkind: Config\n\
             clusters:\n- name: plane\n  cluster:\n    server: {}\n    certificate-authority-data: {ca}\n\
             users:\n- name: {user}\n  user:\n    {credentials}\n\
             contexts:\n- name: plane\n  context:\n    cluster: plane\n    user: {user}\n\
             current-context: plane\n",
            self.server()
        )
    }

    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.apiserver_port)
    }

    pub fn etcd_address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.etcd_port)
    }

    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// File names are relative: every component runs in the directory.
    pub fn etcd(&self) -> Command {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{}", self.etcd_peer_port);
        let mut command = self.command(ETCD.name);
        command.args([
            "--data-dir=etcd",
            // Nothing here has to survive a power cut.
            "--unsafe-no-fsync",
            "--log-level=warn",
            &format!("--listen-client-urls={client}"),
            &format!("--advertise-client-urls={client}"),
            &format!("--listen-peer-urls={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--initial-cluster=default={peer}"),
        ]);
        command
    }

    pub fn apiserver(&self) -> Command {
        let mut command = self.command(APISERVER.name);
        command.args([
            "--bind-address=127.0.0.1",
            &format!("--secure-port={}", self.apiserver_port),
            &format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--tls-cert-file=apiserver.crt",
            "--tls-private-key-file=apiserver.key",
            "--client-ca-file=ca.crt",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=tokens.pub",
            "--service-account-signing-key-file=tokens.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            // A loopback address may not be an endpoint, and nothing here looks for one.
            "--endpoint-reconciler-type=none",
            // Nothing plays kube-proxy: the Service of a webhook leads to its endpoints, whatever its cluster IP.
            "--enable-aggregator-routing=true",
            "--allow-privileged=true",
            "--profiling=false",
            "--audit-policy-file=audit-policy.yaml",
            "--audit-log-path=audit.log",
            // One file for the whole life: tests count in it.
            "--audit-log-maxsize=100000",
        ]);
        command.args(&self.options.apiserver_args);
        command
    }

    pub fn controller_manager(&self) -> Command {
        let mut command = self.command(CONTROLLER_MANAGER.name);
        command.args([
            "--kubeconfig=controller-manager.kubeconfig",
            "--leader-elect=false",
            "--secure-port=0",
            // Each controller by its own name in the audit log, with its own rights, as in a real cluster.
            "--use-service-account-credentials=true",
            "--service-account-private-key-file=tokens.key",
            "--root-ca-file=ca.crt",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            "--concurrent-deployment-syncs=20",
            "--concurrent-replicaset-syncs=20",
        ]);
        command
    }

    pub fn scheduler(&self) -> Command {
        let mut command = self.command(SCHEDULER.name);
        command.args([
            "--kubeconfig=scheduler.kubeconfig",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
        ]);
        command
    }

    pub fn kwok(&self) -> Command {
        let mut command = self.command(KWOK.name);
        command.args(["--kubeconfig=kwok.kubeconfig", "--config=kwok.yaml"]);
        command
    }

    fn command(&self, name: &str) -> Command {
        Command::new(&self.programs[name])
    }
}

fn audit_policy(audit: Audit) -> &'static str {
    match audit {
        Audit::Metadata => {
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
             - level: Metadata\n"
        }
        Audit::RequestBodies => {
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
             - level: Request\n  verbs: [create, update, patch, delete, deletecollection]\n  \
             resources: [{group: apps}, {group: batch}]\n\
             - level: Metadata\n"
        }
    }
}
