//! Why a token does not allow something.

use super::number::TokenId;
use super::right::Right;
use crate::id::NodeId;
use crate::said::Said;

/// What a token lacks for what is wanted of it: a sentence each, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// It does not give the right.
    #[error(
        "the token does not give the right to {0}: use one that does; 'oswalk token show FILE' says what it allows"
    )]
    Right(Right),
    /// It is not for this node.
    #[error(
        "the token does not allow node {0}: use one whose --nodes name it; 'oswalk token show FILE' says what it allows"
    )]
    Node(NodeId),
    /// Its holder is another user.
    #[error(
        "the token is user {holder}'s, and the program is user {uid}'s: run it as user {holder}"
    )]
    User {
        /// The token's user.
        holder: u32,
        /// The program's.
        uid: u32,
    },
    /// It belongs to another session.
    #[error("the token belongs to another session: start the command with 'oswalk exec' again")]
    Session,
    /// Its time is over.
    #[error("the token has expired: make another with 'oswalk token narrow --expires TIME'")]
    Expired,
    /// It allows compile steps only.
    #[error("the token allows compile steps only: use one that was not narrowed to them")]
    Program,
    /// It allows no network, and the program has one.
    #[error(
        "the token allows no network, and the program asks for one: use one without --no-network, or 'oswalk exec --network none'"
    )]
    Network,
    /// So many walks are under way already.
    #[error(
        "the token allows {0} walks at once: wait until one has ended, or use one with more --slots"
    )]
    Slots(u32),
    /// It writes elsewhere.
    #[error("the token does not allow to write {0}: use one whose --paths include it")]
    Path(Said),
    /// It was revoked.
    #[error("the token was revoked ({0}): make another with 'oswalk token narrow'")]
    Revoked(TokenId),
}
