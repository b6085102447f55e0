//! Access control lists and the mode say the same of owner, group and others: a change of one changes the other. Pure.

/// The extended attribute with the list.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute of a directory with the list that new files in it get.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: [u8; 4] = [2, 0, 0, 0];
const ENTRY_BYTES: usize = 8;
const OWNER: u16 = 0x01;
const GROUP: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;
const PERMISSIONS: u32 = 0o777;
const GROUP_BITS: u32 = 0o070;

/// An access control list: entries of tag, permissions and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl(Vec<[u8; ENTRY_BYTES]>);

impl Acl {
    /// Reads the value of the attribute.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let (entries, rest) = value.strip_prefix(&VERSION)?.as_chunks();
        let acl = Self(entries.to_vec());
        let has_all = [OWNER, GROUP, OTHERS].iter().all(|tag| acl.permissions(*tag).is_some());
        (rest.is_empty() && has_all).then_some(acl)
    }

    /// Returns the value of the attribute.
    pub(super) fn encode(&self) -> Vec<u8> {
        [&VERSION, self.0.as_flattened()].concat()
    }

    /// Tells whether the mode says all of it.
    pub(super) fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// Returns a mode with the permissions of the list.
    pub(super) fn mode(&self, before: u32) -> u32 {
        let of = |tag| u32::from(self.permissions(tag).unwrap_or(0) & 7);
        before & !PERMISSIONS | of(OWNER) << 6 | of(self.group_tag()) << 3 | of(OTHERS)
    }

    /// Takes over the permissions of a mode.
    pub(super) fn set_mode(&mut self, mode: u32) {
        let group = self.group_tag();
        for entry in &mut self.0 {
            let shift = match tag(entry) {
                OWNER => 6,
                OTHERS => 0,
                tag if tag == group => 3,
                _ => continue,
            };
            entry[2] = (mode >> shift & 7).to_le_bytes()[0];
        }
    }

    /// Restricts both the list and the mode of a new file to what the other one allows.
    pub(super) fn inherit(&mut self, mode: u32) -> u32 {
        let both = mode & self.mode(0);
        self.set_mode(both);
        mode & !PERMISSIONS | both
    }

    /// Returns a mode that gives nobody more than the list does.
    pub(super) fn least(&self, mode: u32) -> u32 {
        let group = u32::from(self.permissions(GROUP).unwrap_or(0) & 7) << 3;
        mode & (!GROUP_BITS | group)
    }

    /// With a mask, the mode's bits of the group are the mask.
    fn group_tag(&self) -> u16 {
        if self.permissions(MASK).is_some() { MASK } else { GROUP }
    }

    fn permissions(&self, wanted: u16) -> Option<u16> {
        let entry = self.0.iter().find(|entry| tag(entry) == wanted)?;
        Some(u16::from_le_bytes([entry[2], entry[3]]))
    }
}

fn tag(entry: &[u8; ENTRY_BYTES]) -> u16 {
    u16::from_le_bytes([entry[0], entry[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u8)]) -> Vec<u8> {
        let entries = entries
            .iter()
            .map(|&(tag, bits)| [tag.to_le_bytes()[0], 0, bits, 0, 0xff, 0xff, 0xff, 0xff]);
        VERSION.into_iter().chain(entries.flatten()).collect()
    }

    #[test]
    fn the_mode_is_that_of_the_list() {
        let minimal = Acl::parse(&acl(&[(OWNER, 6), (GROUP, 4), (OTHERS, 4)])).expect("a list");
        assert!(minimal.is_minimal());
        assert_eq!(minimal.mode(0o4700), 0o4644);
        let value = acl(&[(OWNER, 6), (2, 7), (GROUP, 4), (MASK, 5), (OTHERS, 0)]);
        let mut masked = Acl::parse(&value).expect("a list");
        let encoded = masked.encode();
        assert_eq!((masked.is_minimal(), masked.mode(0), &encoded), (false, 0o650, &value));
        masked.set_mode(0o741);
        assert_eq!(masked.encode(), acl(&[(OWNER, 7), (2, 7), (GROUP, 4), (MASK, 4), (OTHERS, 1)]));
        let mut inherited = Acl::parse(&value).expect("a list");
        assert_eq!((inherited.inherit(0o2664), inherited.least(0o2664)), (0o2640, 0o2644));
        assert_eq!(
            inherited.encode(),
            acl(&[(OWNER, 6), (2, 7), (GROUP, 4), (MASK, 4), (OTHERS, 0)])
        );
        assert_eq!((Acl::parse(&acl(&[(OWNER, 6)])), Acl::parse(b"")), (None, None));
    }
}
