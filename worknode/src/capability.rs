//! What somebody may do, and how it is proved. A [`Token`] is a biscuit: a signed list of blocks, of which the first says
//! who its holder is, and each later one narrows what the token allows. Anyone who holds a token can append a block to
//! it, and nobody can remove one. A verified token is a [`Capability`], from which decisions are made without reading
//! the token again.
//!
//! `right` is what can be done; `bounds` is what one block or all blocks together allow; `holder` is whom a token was minted
//! for; `source` is a block as Datalog; `token` mints, narrows and verifies; `number` tells tokens apart; `decision` is what a
//! verified token allows, `lack` why something is not allowed, and `words` says it for people; `revocation` is which tokens
//! are good no more.

mod bounds;
mod decision;
mod holder;
mod lack;
mod number;
mod revocation;
mod right;
mod source;
mod token;
mod words;

pub use bounds::{Bounds, LIST_MAX, PREFIX_BYTES_MAX};
pub use decision::{Capability, Program, Runner};
pub use holder::Holder;
pub use lack::Lack;
pub use number::{TokenId, TokenIdError};
pub use revocation::{REVOKED_MAX, RevocationList, Revocations, Revoked};
pub use right::{Right, RightError, Rights};
pub use token::{BLOCKS_MAX, TOKEN_BYTES_MAX, Token, TokenError};
