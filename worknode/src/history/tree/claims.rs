//! Which names lead to something, after events were applied.

use std::mem;

use super::super::event::{Dot, FileId};
use super::model::Tree;
use super::names::{Claim, Place};

impl Tree {
    /// Shows what has changed.
    pub(super) fn settle(&mut self) {
        for stamp in self.moves.settle() {
            self.repeat_links(stamp.dot);
        }
        for link in mem::take(&mut self.stale_links) {
            self.claim(link);
        }
        self.claim_back();
    }

    /// Repeats the steps of links that were moved by an event, because it is skipped now or is not any more.
    fn repeat_links(&mut self, dot: Dot) {
        let event = self.events.get(dot).expect("it was applied");
        for link in self.effects(event).links() {
            self.links.get_mut(&link).expect("an effect's link is made").repeat(&self.moves);
            self.stale_links.insert(link);
        }
    }

    /// Makes the claim of a link say where it is.
    fn claim(&mut self, link: Dot) {
        let entry = self.links.get_mut(&link).expect("an effect's link is made");
        let file = entry.file;
        let is_dir = self.files[&file].is_dir();
        let there = entry.state.put.clone().filter(|_| entry.state.gone.is_none());
        let claim = there.map(|(place, stamp)| (place, Claim { is_dir, stamp, file, link }));
        let former = mem::replace(&mut entry.claim, claim.clone());
        let named = &mut self.files.get_mut(&file).expect("a link is made after its file").named;
        *named = *named + usize::from(claim.is_some()) - usize::from(former.is_some());
        self.replace(former, claim);
        self.stale_files.insert(file);
    }

    /// Makes files without a name have one if they must come back, and so the directories above them.
    fn claim_back(&mut self) {
        while let Some(id) = self.stale_files.pop_first() {
            self.changed.files.insert(id);
            let back = self.back(id);
            let file = self.files.get_mut(&id).expect("what has a name is made");
            let former = mem::replace(&mut file.back, back.clone());
            self.replace(former, back);
        }
    }

    /// Replaces a claim.
    fn replace(&mut self, former: Option<(Place, Claim)>, claim: Option<(Place, Claim)>) {
        if former == claim {
            return;
        }
        // What is shown below a directory depends on what that is united with.
        let of_dir = [&former, &claim].into_iter().flatten().any(|(_, claim)| claim.is_dir);
        let did_unite = self.names.unite();
        if let Some((place, claim)) = former {
            self.names.remove(&place, claim);
            self.renamed(place);
        }
        if let Some((place, claim)) = claim {
            self.names.add(&place, claim);
            self.renamed(place);
        }
        self.changed.is_all |= of_dir && (did_unite || self.names.unite());
    }

    fn renamed(&mut self, place: Place) {
        self.stale_files.insert(place.dir);
        self.changed.names.insert((place.dir, place.name));
    }

    /// Returns the claim of a file that was removed and comes back: one with content that no remover knew, or a
    /// directory in which something is. Its name is the one that was removed last.
    fn back(&self, id: FileId) -> Option<(Place, Claim)> {
        let file = &self.files[&id];
        if file.named > 0 {
            return None;
        }
        let gone = |link: &&Dot| self.links[*link].state.gone;
        let link = *file.links.iter().filter(|link| gone(link).is_some()).max_by_key(gone)?;
        let (place, put) = self.links[&link].state.put.clone()?;
        let stamp =
            if file.is_dir() { self.names.of(id).next().map(|_| put) } else { file.spared() };
        stamp.map(|stamp| (place, Claim { is_dir: file.is_dir(), stamp, file: id, link }))
    }
}
