//! The transport below libgit2's smart protocol: SSH, by the ssh program.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Error, advertised,
    credentials::{Keys, SshKeys},
    location::{Location, SshAddress},
    resolve,
    session::Session,
    ssh_program::Program,
    transport::{current, give_up, never_pushes},
};

const CHUNK: usize = 64 << 10;

/// What libgit2 calls for a remote with the scheme ssh.
pub(super) fn transport(remote: &git2::Remote<'_>) -> Result<Transport, git2::Error> {
    Transport::smart(remote, false, Ssh { session: current()? })
}

struct Ssh {
    session: Arc<Session>,
}

impl SmartSubtransport for Ssh {
    fn action(&self, _url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        match service {
            Service::UploadPackLs => {
                let begun = Conversation::begin(&self.session);
                Ok(Box::new(begun.map_err(|error| give_up(&self.session, error))?))
            }
            // All goes through the stream that the list came through.
            Service::UploadPack => Err(git2::Error::from_str("there is no conversation yet")),
            Service::ReceivePackLs | Service::ReceivePack => Err(never_pushes()),
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

/// One run of git-upload-pack at the remote: the list of references, requests, the pack.
struct Conversation {
    session: Arc<Session>,
    program: Program,
    /// Whether something was asked: until then all that comes is the list.
    asked: bool,
    /// What was received and not read yet.
    rest: io::Cursor<Vec<u8>>,
}

impl Conversation {
    fn begin(session: &Arc<Session>) -> Result<Self, Error> {
        let keys = session.credentials.as_ref().map(|credentials| &credentials.keys);
        let (Location::Ssh(address), Some(Keys::Ssh(keys))) = (&session.location, keys) else {
            return Err(Error::NoCredentials { url: session.url() });
        };
        let found = resolve::of_ssh(session, &address.host, address.port())?;
        let mut found = found.iter().map(SocketAddr::ip).peekable();
        // The program would try them one after the other, too, if it knew more than one.
        while let Some(at) = found.next() {
            match Self::begin_at(session, at, address, keys) {
                Err(Error::SshFailed { .. }) if found.peek().is_some() => {}
                begun => return begun,
            }
        }
        let what = format!("{} has no address", address.host);
        Err(Error::SshFailed { url: session.url(), what })
    }

    fn begin_at(
        session: &Arc<Session>,
        at: IpAddr,
        address: &SshAddress,
        keys: &SshKeys,
    ) -> Result<Self, Error> {
        let program = Program::start(session, at, address, keys)?;
        let mut begun =
            Self { session: Arc::clone(session), program, asked: false, rest: io::Cursor::new(Vec::new()) };
        let mut start = Vec::new();
        while !advertised::begins(&start) {
            let more = begun.receive()?;
            if more.is_empty() {
                break;
            }
            start.extend(more);
        }
        session.note_capabilities(&start)?;
        begun.rest = io::Cursor::new(start);
        Ok(begun)
    }

    /// The next bytes; none at the end.
    fn receive(&mut self) -> Result<Vec<u8>, Error> {
        let mut chunk = vec![0; CHUNK];
        let read = self.session.wait(self.program.stdout.read(&mut chunk))?.unwrap_or(0);
        chunk.truncate(read);
        if chunk.is_empty() {
            return self.ended().map_or(Ok(chunk), Err);
        }
        self.session.count_wire(read)?;
        if !self.asked {
            self.session.note_list(&chunk);
        }
        Ok(chunk)
    }

    fn ended(&mut self) -> Option<Error> {
        let ended = self.session.wait(self.program.ended(&self.session));
        ended.unwrap_or_else(Some)
    }
}

impl Write for Conversation {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.asked = true;
        let written = self.session.wait(self.program.stdin.write(bytes));
        match written {
            Ok(Ok(written)) => Ok(written),
            Ok(Err(error)) => Err(match self.ended() {
                Some(reason) => io::Error::other(give_up(&self.session, reason)),
                None => error,
            }),
            Err(reason) => Err(io::Error::other(give_up(&self.session, reason))),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Conversation {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let unread = usize::try_from(self.rest.position()).is_ok_and(|read| read < self.rest.get_ref().len());
        if !unread {
            // As in the other transport: no text of a stranger reaches libgit2.
            let received = self.receive();
            let received = received.map_err(|error| io::Error::other(give_up(&self.session, error)))?;
            self.rest = io::Cursor::new(received);
        }
        Read::read(&mut self.rest, buffer)
    }
}
