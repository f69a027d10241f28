//! A way to the API server on which answers can be held up.

use std::{io, path::PathBuf};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::controlplane::ControlPlane;

/// While it is held, whoever uses it hears nothing new: neither answers nor what watches show.
pub struct Way {
    held: watch::Sender<bool>,
    /// What leads over it, with all rights.
    pub kubeconfig: PathBuf,
}

impl Way {
    pub async fn to(plane: &ControlPlane) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (own, (held, watched)) = (listener.local_addr().unwrap(), watch::channel(false));
        let server = plane.config().cluster_url.authority().unwrap().to_string();
        let direct = std::fs::read_to_string(plane.kubeconfig_path()).unwrap();
        let kubeconfig = plane.directory().join("way.kubeconfig");
        std::fs::write(&kubeconfig, direct.replace(&server, &own.to_string())).unwrap();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(client, server.clone(), watched.clone()));
            }
        });
        Self { held, kubeconfig }
    }

    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

async fn pass(client: TcpStream, server: String, mut held: watch::Receiver<bool>) -> io::Result<()> {
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let answers = async {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let read = from_server.read(&mut bytes).await?;
            if read == 0 || held.wait_for(|held| !held).await.is_err() {
                return io::Result::Ok(());
            }
            to_client.write_all(&bytes[..read]).await?;
        }
    };
    tokio::select! {
        asked = copy(&mut from_client, &mut to_server) => asked.map(drop),
        answered = answers => answered,
    }
}
