//! What an event does with links: which it puts where, and which it takes away. Its parents tell which are meant.

use super::super::event::{Dot, Event, FileId, Op};
use super::model::Tree;
use super::names::Place;

/// What an event does with links.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) puts: Vec<(Dot, Place)>,
    pub(super) takes: Vec<Dot>,
}

impl Effects {
    pub(super) fn links(&self) -> impl Iterator<Item = Dot> {
        self.puts.iter().map(|(link, _)| *link).chain(self.takes.iter().copied())
    }
}

impl Tree {
    pub(super) fn effects(&self, event: &Event) -> Effects {
        let at = |dir: &FileId, name: &[u8]| self.put_at(&event.parents, *dir, name);
        match &event.op {
            Op::Make { dir, name, .. } => {
                put([event.dot], at(dir, name), &Place { dir: *dir, name: name.clone() })
            }
            Op::Link { dir, name, file } => {
                let link = if self.files[file].is_dir() { *file } else { event.dot };
                put([link], at(dir, name), &Place { dir: *dir, name: name.clone() })
            }
            Op::Unlink { dir, name } => Effects { puts: Vec::new(), takes: at(dir, name) },
            Op::Move { dir, name, to, new, exchange } => {
                // An exchange may have put both: only the order tells which of them is meant.
                let Some((first, others)) = event.parents.split_first() else {
                    return Effects::default();
                };
                let moved = self.put_at(&[*first], *dir, name);
                let there =
                    if moved.is_empty() { Vec::new() } else { self.put_at(others, *to, new) };
                let mut effects = put(moved, there, &Place { dir: *to, name: new.clone() });
                if *exchange {
                    let place = Place { dir: *dir, name: name.clone() };
                    effects.puts.extend(effects.takes.drain(..).map(|link| (link, place.clone())));
                }
                effects
            }
            _ => Effects::default(),
        }
    }

    /// Returns the links that events put at a name.
    fn put_at(&self, by: &[Dot], dir: FileId, name: &[u8]) -> Vec<Dot> {
        let puts = by.iter().filter_map(|dot| self.put.get(dot)).flatten();
        let here = puts.filter(|(_, place)| place.dir == dir && place.name == name);
        let mut links: Vec<Dot> = here.map(|(link, _)| *link).collect();
        links.sort_unstable();
        links.dedup();
        links
    }
}

fn put(links: impl IntoIterator<Item = Dot>, there: Vec<Dot>, place: &Place) -> Effects {
    let puts: Vec<_> = links.into_iter().map(|link| (link, place.clone())).collect();
    let is_put = |link: &Dot| puts.iter().any(|(put, _)| put == link);
    let takes = there.into_iter().filter(|link| !is_put(link)).collect();
    Effects { puts, takes }
}
