//! Whether a message that says "something was pushed" comes from where it says.
//!
//! Nothing of the message is read but its signature: the most that it can do is to make its source be looked at.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// How a sender shows who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// `X-Hub-Signature-256: sha256=<hex>`: an HMAC of the body.
    GitHub,
    /// `X-Gitlab-Token: <token>`: the token itself.
    GitLab,
    /// `X-Gitea-Signature: <hex>`: an HMAC of the body. Forgejo sends the same.
    Gitea,
    /// `X-Signature: sha256=<hex>`: an HMAC of the body.
    Generic,
}

impl Sender {
    /// The header that shows it.
    pub fn header(self) -> &'static str {
        match self {
            Self::GitHub => "x-hub-signature-256",
            Self::GitLab => "x-gitlab-token",
            Self::Gitea => "x-gitea-signature",
            Self::Generic => "x-signature",
        }
    }

    /// Whether what stands in the header fits the body and the token. Takes as long for a wrong one as for one that is
    /// almost right.
    pub fn verify(self, token: &Token, shown: &[u8], body: &[u8]) -> bool {
        match self {
            Self::GitLab => {
                // Hashes of the two are compared: how far they agree says nothing about the token.
                Sha256::digest(shown) == Sha256::digest(&token.0)
            }
            Self::GitHub | Self::Generic => {
                shown.strip_prefix(b"sha256=").is_some_and(|hex| token.signed(hex, body))
            }
            Self::Gitea => token.signed(shown, body),
        }
    }
}

/// What a sender and the operator share. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

/// The shortest token, in bytes: shorter ones can be guessed.
pub const TOKEN_MIN: usize = 16;

impl Token {
    /// A token, if it is long enough. A line's end, as editors leave it, is no part of it.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        (bytes.len() >= TOKEN_MIN).then(|| Self(bytes.to_vec()))
    }

    fn signed(&self, hex_signature: &[u8], body: &[u8]) -> bool {
        let Ok(signature) = hex::decode(hex_signature) else { return false };
        // An HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return false };
        mac.update(body);
        mac.verify_slice(&signature).is_ok()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"Hello, World!";

    fn token() -> Token {
        Token::new(b"It's a Secret to Everybody\n").unwrap()
    }

    /// The example of GitHub's documentation, "Validating webhook deliveries".
    #[test]
    fn signatures_are_checked_as_the_senders_make_them() {
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let prefixed = format!("sha256={hex}");
        assert!(Sender::GitHub.verify(&token(), prefixed.as_bytes(), BODY));
        assert!(Sender::Generic.verify(&token(), prefixed.as_bytes(), BODY));
        assert!(Sender::Gitea.verify(&token(), hex.as_bytes(), BODY));
        assert!(Sender::GitLab.verify(&token(), b"It's a Secret to Everybody", b"anything"));
    }

    #[test]
    fn whatever_is_wrong_is_refused() {
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let prefixed = format!("sha256={hex}");
        for sender in [Sender::GitHub, Sender::Generic, Sender::Gitea, Sender::GitLab] {
            for shown in ["", "sha256=", "sha256=zz", &hex[..62], &prefixed[..69], "sha1=00", "It's a Secret"]
            {
                assert!(!sender.verify(&token(), shown.as_bytes(), BODY), "{sender:?} {shown}");
            }
        }
        assert!(!Sender::GitHub.verify(&token(), prefixed.as_bytes(), b"Hello, World?"));
        assert!(!Sender::GitHub.verify(&Token::new(&[b'x'; 20]).unwrap(), prefixed.as_bytes(), BODY));
        assert!(!Sender::GitHub.verify(&token(), hex.as_bytes(), BODY), "the prefix says which hash it is");
    }

    #[test]
    fn a_short_token_is_none_and_none_is_ever_shown() {
        assert!(Token::new(b"").is_none());
        assert!(Token::new(b"short\n").is_none());
        assert!(!format!("{:?}", token()).contains("Secret"));
    }
}
