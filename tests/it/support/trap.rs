//! A server that only notes who comes.

use std::{
    io::Read as _,
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

/// A place where nobody should come: notes whatever does.
pub struct Trap {
    pub port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Trap {
    pub fn set() -> Self {
        Self::set_at("127.0.0.1")
    }

    /// On another address of this machine.
    pub fn set_at(address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                notes.lock().unwrap().extend(b"somebody came: ");
                stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).unwrap_or(0);
                notes.lock().unwrap().extend(&bytes[..read]);
            }
        });
        Self { port, seen }
    }

    /// What came, with a note for every connection; empty: nobody did.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }
}
