//! How events change names. What is to be seen of it follows when all events that came together are applied.

use super::super::event::{Dot, Event, Op};
use super::effects::Effects;
use super::file::File;
use super::link::{Act, Link};
use super::model::Tree;

impl Tree {
    /// Applies an event that changes names.
    pub(super) fn rename(&mut self, event: &Event) {
        self.make(event);
        let effects = self.effects(event);
        self.move_dirs(event, &effects);
        self.add_steps(event, &effects);
        self.touch(event, &effects);
        self.stale_links.extend(effects.links());
        let files = effects.links().map(|link| self.links[&link].file);
        self.stale_files.extend(files);
        self.put.insert(event.dot, effects.puts);
    }

    /// Makes the file and the link that the event makes.
    fn make(&mut self, event: &Event) {
        let file = match &event.op {
            Op::Make { dir, kind, permissions, .. } => {
                let file = File::new(event.into(), event.time, kind.clone(), *permissions);
                if file.is_dir() {
                    self.moves.add_dir(event.dot, *dir);
                }
                self.files.insert(event.dot, file);
                event.dot
            }
            Op::Link { file, .. } if !self.files[file].is_dir() => *file,
            _ => return,
        };
        self.links.insert(event.dot, Link::of(file));
        self.files.get_mut(&file).expect("it is sound, or made above").links.push(event.dot);
    }

    fn move_dirs(&mut self, event: &Event, effects: &Effects) {
        let is_dir = |link: &Dot| self.files.get(link).is_some_and(File::is_dir);
        let dirs = effects.puts.iter().filter(|(link, _)| is_dir(link));
        let edges: Vec<_> = dirs.map(|(link, place)| (*link, place.dir)).collect();
        if !edges.is_empty() && !matches!(event.op, Op::Make { .. }) {
            self.moves.add(event.into(), edges);
        }
    }

    fn add_steps(&mut self, event: &Event, effects: &Effects) {
        let puts = effects.puts.iter().map(|(link, place)| (*link, Act::Put(place.clone())));
        let takes = effects.takes.iter().map(|link| (*link, Act::Take(event.parents.clone())));
        for (link, act) in puts.chain(takes) {
            let link = self.links.get_mut(&link).expect("an effect's link is made");
            link.add(event.into(), act, &self.moves);
        }
    }

    /// Notes the times of files and directories, and what is known of the content of files that lose a name.
    fn touch(&mut self, event: &Event, effects: &Effects) {
        let dirs = match &event.op {
            Op::Make { dir, .. } | Op::Link { dir, .. } | Op::Unlink { dir, .. } => [*dir, *dir],
            Op::Move { dir, to, .. } => [*dir, *to],
            _ => return,
        };
        for dir in dirs {
            self.files.get_mut(&dir).expect("is_sound has found it").touch_names(event);
            self.stale_files.insert(dir);
        }
        for link in effects.links() {
            self.file_of(link).touch(event);
        }
        for link in &effects.takes {
            self.file_of(*link).removed.extend(&event.parents);
        }
    }

    fn file_of(&mut self, link: Dot) -> &mut File {
        let file = self.links[&link].file;
        self.files.get_mut(&file).expect("a link is made after its file")
    }
}
