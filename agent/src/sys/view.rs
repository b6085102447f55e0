//! A process's view of the file system: its mount namespace and its root.

use std::io;

use super::place::Place;

/// The origin of a process's paths. Paths mean the same files for two processes with equal views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    root: Place,
    /// The mount namespace, where the kernel reports no mount ids. A mount id alone determines it.
    namespace: Option<(u64, u64)>,
}

impl View {
    /// Returns the view of the calling process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::below("/proc/self")
    }

    /// Returns the view of a process.
    ///
    /// # Errors
    /// The process is gone, or its pid namespace is not visible here (then its pid is 0).
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        Self::below(&format!("/proc/{pid}"))
    }

    fn below(process: &str) -> io::Result<Self> {
        let root = Place::at(&format!("{process}/root"))?;
        let namespace = || Place::at(&format!("{process}/ns/mnt"));
        let namespace = if root.mount == 0 { Some(namespace()?) } else { None };
        Ok(Self { root, namespace: namespace.map(|place| (place.dev, place.ino)) })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_shares_its_parents_view() {
        let own = View::own().expect("this process is visible");
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat is installed");
        assert_eq!(View::of(child.id()).expect("the child is visible"), own);
        drop(child.stdin.take());
        child.wait().expect("the child ends");
    }

    #[test]
    fn an_invisible_process_has_no_view() {
        assert!(View::of(0).is_err());
    }
}
