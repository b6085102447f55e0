//! Mints, narrows and verifies tokens.

use std::fmt;
use std::str::FromStr;

use biscuit_auth::builder::BlockBuilder;
use biscuit_auth::{Algorithm, Biscuit, KeyPair, PrivateKey, PublicKey, UnverifiedBiscuit};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::decision::Capability;
use super::holder::Holder;
use super::number::TokenId;
use super::source;
use crate::key::{Key, SecretKey};

/// Most blocks of a token. Each costs a signature to verify; with so many that takes half a millisecond.
pub const BLOCKS_MAX: usize = 8;
/// Longest token: several times one with the longest lists that a user writes.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// A token. Whoever holds it can use it, so that it is shown nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(#[serde(with = "serde_bytes")] Vec<u8>);

/// Why bytes are not a valid token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// They are none.
    #[error("this is not a token: a token is one line of text from 'oswalk token narrow'")]
    Malformed,
    /// It has too many blocks, or is too long.
    #[error("the token was narrowed too often: narrow an earlier one")]
    TooLong,
    /// It is not signed with the key.
    #[error("the token is not signed by its node: make one with 'oswalk token narrow'")]
    Forged,
    /// It has a check that this version does not know, or other statements.
    #[error(
        "the token has a block that this OS Walk cannot read: use one from 'oswalk token narrow'"
    )]
    Unknown,
    /// What it is to be narrowed to cannot be written.
    #[error(
        "a token cannot be narrowed to this: write absolute paths without '..', quotes or control characters, and at most 16 nodes or paths"
    )]
    Unwritable,
    /// A token that was sealed cannot be narrowed.
    #[error("the token cannot be narrowed: it is sealed")]
    Sealed,
}

impl Token {
    /// Mints a token for a user of a node. `seed` is random, and is the secret with which it can be narrowed.
    ///
    /// # Errors
    /// The user's name cannot be written.
    pub fn mint(holder: &Holder, node: &SecretKey, seed: &[u8; 32]) -> Result<Self, TokenError> {
        let is_plain = holder.user.as_deref().is_none_or(source::is_plain);
        let facts = is_plain.then(|| source::of_holder(holder)).ok_or(TokenError::Unwritable)?;
        let builder = Biscuit::builder().code(facts).map_err(|_| TokenError::Unwritable)?;
        let symbols = biscuit_auth::datalog::SymbolTable::default();
        let minted = builder.build_with_key_pair(&pair(node.seed())?, symbols, &pair(seed)?);
        Self::of(&minted.map_err(|_| TokenError::Unwritable)?)
    }

    /// Returns a token that allows no more than these bounds. Needs no key: the token itself is not verified.
    ///
    /// # Errors
    /// It is no token, has as many blocks as it may have, or the bounds cannot be written.
    pub fn narrow(&self, bounds: &Bounds, seed: &[u8; 32]) -> Result<Self, TokenError> {
        if !source::is_sound(bounds) {
            return Err(TokenError::Unwritable);
        }
        let token = self.unverified()?;
        if token.block_count() >= BLOCKS_MAX {
            return Err(TokenError::TooLong);
        }
        let block = BlockBuilder::new().code(source::of_bounds(bounds));
        let block = block.map_err(|_| TokenError::Unwritable)?;
        let narrowed = token.append_with_keypair(&pair(seed)?, block);
        let bytes = narrowed.and_then(|token| token.to_vec()).map_err(|_| TokenError::Sealed)?;
        Self::try_from(bytes)
    }

    /// Verifies the token.
    ///
    /// # Errors
    /// It is not signed with the key, or says something that this version does not know.
    pub fn verify(&self, root: &Key) -> Result<Capability, TokenError> {
        let token = self.unverified()?;
        let root = PublicKey::from_bytes(&root.0, Algorithm::Ed25519);
        let root = root.map_err(|_| TokenError::Forged)?;
        let token = token.verify(root).map_err(|_| TokenError::Forged)?;
        let source = |index| token.print_block_source(index).map_err(|_| TokenError::Unknown);
        read(token.block_count(), source, token.revocation_identifiers())
    }

    /// Reads the token without verifying it: what it says may be a lie.
    ///
    /// # Errors
    /// It is no token, or says something that this version does not know.
    pub fn peek(&self) -> Result<Capability, TokenError> {
        let token = self.unverified()?;
        let source = |index| token.print_block_source(index).map_err(|_| TokenError::Unknown);
        read(token.block_count(), source, token.revocation_identifiers())
    }

    /// Returns its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text in which people keep it. It is a secret.
    #[must_use]
    pub fn reveal(&self) -> String {
        BASE32_NOPAD.encode(&self.0).to_ascii_lowercase()
    }

    fn of(token: &Biscuit) -> Result<Self, TokenError> {
        Self::try_from(token.to_vec().map_err(|_| TokenError::Unwritable)?)
    }

    fn unverified(&self) -> Result<UnverifiedBiscuit, TokenError> {
        if self.0.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let token = UnverifiedBiscuit::from(&self.0).map_err(|_| TokenError::Malformed)?;
        if token.block_count() > BLOCKS_MAX {
            return Err(TokenError::TooLong);
        }
        // A block of a third party states facts of its own.
        if token.external_public_keys().iter().any(Option::is_some) {
            return Err(TokenError::Unknown);
        }
        Ok(token)
    }
}

impl TryFrom<Vec<u8>> for Token {
    type Error = TokenError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, TokenError> {
        if bytes.len() <= TOKEN_BYTES_MAX { Ok(Self(bytes)) } else { Err(TokenError::TooLong) }
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().to_ascii_uppercase();
        let bytes = BASE32_NOPAD.decode(text.as_bytes()).map_err(|_| TokenError::Malformed)?;
        Self::try_from(bytes)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

/// Reads the blocks of a token by their Datalog.
fn read(
    blocks: usize,
    source: impl Fn(usize) -> Result<String, TokenError>,
    signatures: Vec<Vec<u8>>,
) -> Result<Capability, TokenError> {
    let holder = source::to_holder(&source(0)?).ok_or(TokenError::Unknown)?;
    let mut bounds = Bounds { rights: Some(holder.rights), ..Bounds::default() };
    for index in 1..blocks {
        let narrower = source::to_bounds(&source(index)?).ok_or(TokenError::Unknown)?;
        bounds = bounds.and(&narrower);
    }
    let ids = signatures.iter().map(|signature| TokenId::of(signature)).collect();
    Ok(Capability { holder, bounds, ids })
}

fn pair(seed: &[u8; 32]) -> Result<KeyPair, TokenError> {
    let secret = PrivateKey::from_bytes(seed, Algorithm::Ed25519);
    secret.map(|secret| KeyPair::from(&secret)).map_err(|_| TokenError::Unwritable)
}

#[cfg(test)]
mod tests;
