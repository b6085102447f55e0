//! Tells where the tables differ from the merged tree. They never should.

use std::collections::{BTreeMap, BTreeSet};

use worknode::history::{FileId, Name, Tree as Merged};

use super::error::VolumeError;
use super::key;
use super::node::{Entry, Node, Xattr};
use super::row::Row;
use super::tree::Tree;

impl Tree {
    /// Says a sentence for each difference.
    pub(super) fn differences(&self, merged: &Merged) -> Result<Vec<String>, VolumeError> {
        let (mut found, mut named) = (Vec::new(), 0);
        for id in merged.files() {
            let (ino, wanted) = (self.ino(id), self.row_of(merged, id));
            named += u64::from(wanted.is_some());
            let row = self.find(ino)?.filter(|node| node.links > 0);
            let (row, wanted) = (row.map(comparable), wanted.map(comparable));
            if row != wanted {
                found.push(format!("file {ino}: the row {row:?} is not {wanted:?}"));
            }
            if wanted.as_ref().is_some_and(Node::is_dir) {
                self.compare_names(merged, id, &mut found)?;
            }
            if wanted.is_some() {
                self.compare_xattrs(merged, id, &mut found)?;
            }
        }
        let (mut rows, mut disputes) = (0, 0);
        for (_, row) in self.tables.all(&key::NODES)? {
            let node = Node::decode(&row)?;
            rows += u64::from(node.links > 0);
            disputes += u64::from(node.is_disputed);
        }
        for (_, row) in self.tables.all(&key::ENTRIES)? {
            disputes += u64::from(Entry::decode(&row)?.is_disputed);
        }
        if rows != named {
            found.push(format!("there are rows of {rows} files, not {named}"));
        }
        if disputes != self.state.disputes {
            found.push(format!("{disputes} rows are in dispute, not {}", self.state.disputes));
        }
        Ok(found)
    }

    fn compare_names(
        &self,
        merged: &Merged,
        dir: FileId,
        found: &mut Vec<String>,
    ) -> Result<(), VolumeError> {
        let ino = self.ino(dir);
        let rows: BTreeMap<Name, Entry> = self.entries(ino)?.into_iter().collect();
        let wanted = merged.entries(dir).into_keys().filter_map(|name| {
            let it = merged.binding(dir, name)?;
            let mut entry = Entry::new(self.ino(it.file), it.put, it.put_at);
            entry.is_disputed = it.is_disputed;
            Some((name.clone(), entry))
        });
        let wanted: BTreeMap<Name, Entry> = wanted.collect();
        let names: BTreeSet<&Name> = rows.keys().chain(wanted.keys()).collect();
        for name in names.into_iter().filter(|name| rows.get(*name) != wanted.get(*name)) {
            let (row, wanted) = (rows.get(name), wanted.get(name));
            let name = name.escape_ascii();
            found.push(format!("directory {ino}: {name} is {row:?}, not {wanted:?}"));
        }
        Ok(())
    }

    fn compare_xattrs(
        &self,
        merged: &Merged,
        id: FileId,
        found: &mut Vec<String>,
    ) -> Result<(), VolumeError> {
        let (ino, Some(file)) = (self.ino(id), merged.file(id)) else { return Ok(()) };
        for xattr in merged.attributes(file) {
            let row = self.xattr(ino, xattr.name)?;
            let value = xattr.value.map(<[u8]>::to_vec);
            let wanted = value.map(|value| Xattr { set: xattr.set, value });
            if row != wanted {
                let name = xattr.name.escape_ascii();
                found.push(format!("file {ino}: the attribute {name} is not what events say"));
            }
        }
        Ok(())
    }
}

/// Returns a row without what does not follow from the events alone.
fn comparable(mut node: Node) -> Node {
    node.changed = 0;
    if !node.is_dir() {
        node.parent = 0;
    }
    node.lost_xattrs = false;
    node
}
