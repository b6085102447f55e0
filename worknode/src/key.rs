//! Ed25519 keys, which identify agents and owners. They are shown as base32.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::said::Said;

/// Characters of an abbreviated key.
const SHORT: usize = 8;

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub [u8; 32]);

/// A signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature(#[serde(with = "serde_bytes")] [u8; 64]);

/// The signature is not valid for this key and message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not valid")]
pub struct Forged;

/// The text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a key: a key is 52 letters and digits, as 'oswalk cluster nodes' shows it")]
pub struct KeyError(Said);

impl Key {
    /// Checks that this key has signed a message.
    ///
    /// # Errors
    /// It has not, or it is a weak key, under which signatures prove nothing.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), Forged> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| Forged)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(message, &signature).map_err(|_| Forged)
    }

    /// Returns an abbreviation, for logs.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(SHORT);
        text
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.short())
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok();
        let key = bytes.and_then(|bytes| bytes.try_into().ok());
        key.map(Self).ok_or_else(|| KeyError(text.into()))
    }
}

/// The secret half of a key. It is overwritten in memory when it is dropped.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Makes a key from 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Returns the random bytes from which it was made.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Returns the public half.
    #[must_use]
    pub fn key(&self) -> Key {
        Key(self.0.verifying_key().to_bytes())
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {:?})", self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_knows_its_signatures() {
        let secret = SecretKey::from_seed(&[7; 32]);
        let (key, other) = (secret.key(), SecretKey::from_seed(&[8; 32]).key());
        let signature = secret.sign(b"message");
        assert_eq!(key.verify(b"message", &signature), Ok(()));
        assert_eq!(key.verify(b"massage", &signature), Err(Forged));
        assert_eq!(other.verify(b"message", &signature), Err(Forged));
        for bit in 0..512 {
            let mut forged = signature;
            forged.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.verify(b"message", &forged), Err(Forged), "bit {bit}");
        }
        // Under the neutral point of the curve one signature fits every message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut any = [0; 64];
        any[0] = 1;
        assert_eq!(Key(neutral).verify(b"message", &Signature(any)), Err(Forged));
    }

    #[test]
    fn a_key_is_text_and_its_secret_is_not() {
        let secret = SecretKey::from_seed(&[7; 32]);
        let key = secret.key();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.to_string().len(), 52);
        assert!("".parse::<Key>().is_err() && "a".repeat(53).parse::<Key>().is_err());
        assert_eq!(format!("{secret:?}"), format!("SecretKey(of Key({}))", key.short()));
    }
}
