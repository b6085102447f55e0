//! The join lines that this node has made. Of a line's word only the digest is kept.

use serde::{Deserialize, Serialize};
use worknode::request::InviteStatus;

use crate::wire::joining::JoinRefusal;

/// Invitations that are kept; the oldest go.
const INVITES_MAX: usize = 1000;
/// An invitation that is over is remembered for a day, to say so.
const REMEMBERED_S: u64 = 24 * 3600;

/// Bytes of a digest that distinguish a thousand lines.
const ID_BYTES: usize = 4;

/// All invitations.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Invites(Vec<Invite>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Invite {
    word: [u8; 32],
    made_s: u64,
    expires_s: u64,
    nodes_left: u32,
}

impl Invites {
    /// Adds one for so many nodes.
    pub(super) fn add(&mut self, word: &[u8; 16], nodes: u32, now_s: u64, expires_s: u64) {
        self.0.retain(|invite| invite.expires_s + REMEMBERED_S > now_s);
        if self.0.len() >= INVITES_MAX {
            self.0.remove(0);
        }
        self.0.push(Invite { word: digest(word), made_s: now_s, expires_s, nodes_left: nodes });
    }

    /// Returns those that let somebody in.
    pub(super) fn open(&self, now_s: u64) -> Vec<InviteStatus> {
        let open = self.0.iter().filter(|invite| invite.is_open(now_s));
        let status = |invite: &Invite| InviteStatus {
            id: invite.id(),
            nodes_left: invite.nodes_left,
            made_s: invite.made_s,
            expires_s: invite.expires_s,
        };
        open.map(status).collect()
    }

    /// Forgets one. Returns false if none that lets somebody in has this id.
    pub(super) fn withdraw(&mut self, id: &str, now_s: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|invite| !(invite.is_open(now_s) && invite.id() == id));
        self.0.len() < before
    }

    /// Checks that a word lets a node in.
    ///
    /// # Errors
    /// It is unknown, expired or used up.
    pub(super) fn check(&self, word: &[u8; 16], now_s: u64) -> Result<(), JoinRefusal> {
        let digest = digest(word);
        let invite = self.0.iter().find(|invite| invite.word == digest);
        match invite {
            None => Err(JoinRefusal::Unknown),
            Some(invite) if invite.expires_s <= now_s => Err(JoinRefusal::Expired),
            Some(invite) if invite.nodes_left == 0 => Err(JoinRefusal::UsedUp),
            Some(_) => Ok(()),
        }
    }

    /// Counts a node that was let in.
    pub(super) fn use_up(&mut self, word: &[u8; 16]) {
        let digest = digest(word);
        for invite in self.0.iter_mut().filter(|invite| invite.word == digest) {
            invite.nodes_left = invite.nodes_left.saturating_sub(1);
        }
    }
}

impl Invite {
    fn is_open(&self, now_s: u64) -> bool {
        self.expires_s > now_s && self.nodes_left > 0
    }

    /// Returns what names it. It is no secret: the word does not follow from its digest.
    fn id(&self) -> String {
        self.word[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn digest(word: &[u8; 16]) -> [u8; 32] {
    blake3::derive_key("oswalk 2026 join word", word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_good_for_so_many_nodes_and_so_long() {
        let mut invites = Invites::default();
        invites.add(&[1; 16], 2, 100, 200);
        assert_eq!(invites.check(&[2; 16], 150), Err(JoinRefusal::Unknown));
        assert_eq!(invites.check(&[1; 16], 200), Err(JoinRefusal::Expired));
        for _ in 0..2 {
            assert_eq!(invites.check(&[1; 16], 199), Ok(()));
            invites.use_up(&[1; 16]);
        }
        assert_eq!(invites.check(&[1; 16], 199), Err(JoinRefusal::UsedUp));
        assert!(invites.open(199).is_empty());
        invites.add(&[4; 16], 3, 100, 200);
        let open = invites.open(199);
        assert_eq!((open.len(), open[0].nodes_left, open[0].expires_s), (1, 3, 200));
        assert!(!invites.withdraw("00000000", 199) && !invites.withdraw(&open[0].id, 200));
        assert!(invites.withdraw(&open[0].id, 199) && !invites.withdraw(&open[0].id, 199));
        assert_eq!(invites.check(&[4; 16], 199), Err(JoinRefusal::Unknown));
        invites.add(&[3; 16], 1, 200 + REMEMBERED_S, 500_000);
        assert_eq!(invites.check(&[1; 16], 199), Err(JoinRefusal::Unknown), "forgotten");
        for number in 0..2 * INVITES_MAX {
            invites.add(&u128::try_from(number).expect("small").to_le_bytes(), 1, 0, 9);
        }
        assert_eq!(invites.0.len(), INVITES_MAX);
    }
}
