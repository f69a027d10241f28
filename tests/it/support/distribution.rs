//! The real registry (CNCF Distribution) on a high port.

use std::{
    fs::{self, File},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use countersign::domain::image::{Digest, Repository};
use reqwest::{Client, Method, RequestBuilder, Url, header::LOCATION};
use serde_json::Value;
use tempfile::TempDir;

use super::{operator::free_port, registry::digest_of};
use crate::controlplane::{REGISTRY, eventually, find_or_build};

/// Ends the registry when standard input does: with this process, whatever ends it.
const UNTIL_WE_END: &str = "\"$@\" & server=$!; read -r _; kill $server";
/// Who is let in, if not everybody.
pub const LOGIN: (&str, &str) = ("ada", "hunter2");
const HTPASSWD: &str = "ada:$2a$04$dT9EcmRNMLpt3z3Zssyw3uqYJlVL.TYIjcmL2TnNB9QFLnE9cnoTO\n";

/// A running registry.
pub struct Distribution {
    /// As it stands in names of images.
    pub host: String,
    directory: TempDir,
    server: Child,
    client: Client,
}

impl Drop for Distribution {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

impl Distribution {
    /// Starts one for everybody, or for [`LOGIN`] only.
    pub async fn start(private: bool) -> Self {
        let build = || find_or_build(&[&REGISTRY]).unwrap().remove(REGISTRY.name).unwrap();
        let program = tokio::task::spawn_blocking(build).await.unwrap();
        let directory = TempDir::new().unwrap();
        let host = format!("127.0.0.1:{}", free_port());
        let at = directory.path();
        let mut config = "version: 0.1\nstorage: {filesystem: {rootdirectory: HERE/data}}\n".to_owned();
        config += "http: {addr: 'HOST'}\n";
        if private {
            fs::write(at.join("htpasswd"), HTPASSWD).unwrap();
            config += "auth: {htpasswd: {realm: test, path: HERE/htpasswd}}\n";
        }
        let config = config.replace("HERE", &at.display().to_string()).replace("HOST", &host);
        fs::write(at.join("config.yml"), config).unwrap();
        let log = File::create(at.join("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", UNTIL_WE_END, "registry"]).arg(program).arg("serve").arg(at.join("config.yml"));
        command.env("OTEL_TRACES_EXPORTER", "none").stdin(Stdio::piped());
        let server = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let registry =
            Self { host, directory, server, client: Client::builder().no_proxy().build().unwrap() };
        eventually("the registry answers", Duration::from_secs(20), async || {
            let log = fs::read_to_string(registry.directory.path().join("log"))?;
            TcpStream::connect(&registry.host).map(drop).context(log)
        })
        .await;
        registry
    }

    /// A repository here, as images name it.
    pub fn repository(&self, path: &str) -> Repository {
        format!("{}/{path}", self.host).parse().unwrap()
    }

    fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.client.request(method, url).basic_auth(LOGIN.0, Some(LOGIN.1))
    }

    pub async fn push_blob(&self, path: &str, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        let begin = self.request(Method::POST, &format!("http://{}/v2/{path}/blobs/uploads/", self.host));
        let begun = begin.send().await.unwrap().error_for_status().unwrap();
        let mut to = Url::parse(begun.headers()[LOCATION].to_str().unwrap()).unwrap();
        to.query_pairs_mut().append_pair("digest", digest.as_str());
        let end = self.request(Method::PUT, to.as_str()).header("content-type", "application/octet-stream");
        end.body(bytes.to_vec()).send().await.unwrap().error_for_status().unwrap();
        digest
    }

    /// A manifest under a tag; with the media type that it states.
    pub async fn push_manifest(&self, path: &str, tag: &str, manifest: &Value) -> Digest {
        let media_type = manifest["mediaType"].as_str().unwrap();
        let url = format!("http://{}/v2/{path}/manifests/{tag}", self.host);
        let push =
            self.request(Method::PUT, &url).header("content-type", media_type).body(manifest.to_string());
        let pushed = push.send().await.unwrap();
        let status = pushed.status();
        assert!(status.is_success(), "{status}: {}", pushed.text().await.unwrap());
        digest_of(manifest.to_string().as_bytes())
    }
}
