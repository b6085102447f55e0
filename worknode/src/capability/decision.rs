//! What a verified token allows, and the decisions on it.

use super::bounds::Bounds;
use super::holder::Holder;
use super::lack::Lack;
use super::number::TokenId;
use super::right::Right;
use crate::id::{NodeId, SessionId};

/// What a verified token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Who it was minted for.
    pub holder: Holder,
    /// What all of its blocks together allow. The rights are always given.
    pub bounds: Bounds,
    /// The numbers of its blocks. The last is the token's own.
    pub ids: Vec<TokenId>,
}

/// A program that is to be executed on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its user at the origin.
    pub uid: u32,
    /// The session.
    pub session: SessionId,
    /// Whether it is a compile step.
    pub compiles: bool,
}

/// The node that is to execute it.
#[derive(Debug, Clone, Copy)]
pub struct Runner<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// Whether it executes the program without network.
    pub is_offline: bool,
}

impl Capability {
    /// Tells whether it gives a right at a time, in seconds since 1970.
    ///
    /// # Errors
    /// What it lacks.
    pub fn gives(&self, right: Right, now_s: u64) -> Result<(), Lack> {
        let rights = self.bounds.rights.unwrap_or_default();
        if self.bounds.until_s.is_some_and(|until_s| now_s > until_s) {
            Err(Lack::Expired)
        } else if rights.has(right) {
            Ok(())
        } else {
            Err(Lack::Right(right))
        }
    }

    /// Tells whether it allows a program to be executed elsewhere at a time, in seconds since 1970.
    ///
    /// # Errors
    /// What it lacks.
    pub fn allows_program(&self, program: &Program, now_s: u64) -> Result<(), Lack> {
        self.gives(Right::Exec, now_s)?;
        self.gives(Right::Read, now_s)?;
        if self.holder.uid != program.uid {
            return Err(Lack::User { holder: self.holder.uid, uid: program.uid });
        }
        let sessions = self.bounds.sessions.as_ref();
        if sessions.is_some_and(|all| !all.contains(&program.session)) {
            return Err(Lack::Session);
        }
        if self.bounds.only_compile_steps && !program.compiles {
            return Err(Lack::Program);
        }
        Ok(())
    }

    /// Tells whether it allows a program on a runner that executes so many others for the session.
    ///
    /// # Errors
    /// What it lacks.
    pub fn allows(
        &self,
        program: &Program,
        runner: &Runner<'_>,
        others: u32,
        now_s: u64,
    ) -> Result<(), Lack> {
        self.allows_program(program, now_s)?;
        if !self.allows_node(runner.node) {
            return Err(Lack::Node(runner.node.clone()));
        }
        if self.bounds.no_network && !runner.is_offline {
            return Err(Lack::Network);
        }
        match self.bounds.slots {
            Some(slots) if others >= slots => Err(Lack::Slots(slots)),
            _ => Ok(()),
        }
    }

    /// Tells whether it allows a node.
    #[must_use]
    pub fn allows_node(&self, node: &NodeId) -> bool {
        self.bounds.nodes.as_ref().is_none_or(|nodes| nodes.contains(node))
    }

    /// Returns the token's own number.
    ///
    /// # Panics
    /// Never: a token has a first block.
    #[must_use]
    pub fn id(&self) -> TokenId {
        *self.ids.last().expect("a token has a first block")
    }
}
