//! [unsafe] The session of this process: its policy page and tally, mapped once and kept until the
//! process executes another program. Without a session the library is inert.
#![expect(unsafe_code, reason = "maps the page and the tally")]

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use worknode::page::Page;
use worknode::policy::base_name;
use worknode::reason::Reason;
use worknode::tally;
use worknode::variables::PAGE_ENTRY;

use crate::strings::Strings;
use crate::sys;

const UNKNOWN: u32 = 0;
const OPENING: u32 = 1;
const INERT: u32 = 2;
const OPEN: u32 = 3;

static STATE: AtomicU32 = AtomicU32::new(UNKNOWN);
static PAGE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Where a volume was mounted when the session was opened, in the page.
static POINT: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static POINT_BYTES: AtomicUsize = AtomicUsize::new(0);
static TALLY: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static TALLY_WORDS: AtomicUsize = AtomicUsize::new(0);

/// The session as the mapped page describes it. The environment is not read again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) page: Page<'static>,
    tally: &'static [AtomicU64],
}

impl Session {
    /// Counts one stay of the program at `path`.
    pub(crate) fn count(&self, path: &[u8], reason: Reason) {
        tally::count(self.tally, base_name(path), reason);
    }

    /// Returns the path of this library.
    pub(crate) fn preload(&self) -> &'static [u8] {
        without_nul(self.page.preload_path())
    }

    /// Tells whether a loader would find this library. It does not after a `chroot`, or once the
    /// library is uninstalled.
    pub(crate) fn is_reachable(&self) -> bool {
        CStr::from_bytes_until_nul(self.page.preload_path())
            .is_ok_and(|path| sys::stat(path).is_ok())
    }

    /// Returns the path of the policy page.
    pub(crate) fn page_path(&self) -> &'static [u8] {
        without_nul(self.page.page_path())
    }

    /// Returns the path of the stub.
    pub(crate) fn stub(&self) -> &'static CStr {
        CStr::from_bytes_until_nul(self.page.stub_path()).unwrap_or(c"")
    }
}

fn without_nul(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"\0").unwrap_or(path)
}

/// Returns the session, and joins it if that was not tried yet. A thread that calls this while another
/// is joining gets none.
pub(crate) fn current() -> Option<Session> {
    // While `environ` is null, libc is not initialized yet.
    if STATE.load(Ordering::Acquire) == UNKNOWN
        && !environment().as_ptr().is_null()
        && STATE.compare_exchange(UNKNOWN, OPENING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    {
        let state = if join().is_some() { OPEN } else { INERT };
        STATE.store(state, Ordering::Release);
    }
    if STATE.load(Ordering::Acquire) == OPEN { mapped() } else { None }
}

/// Returns where a volume was mounted when the session was opened, once it has been joined.
pub(crate) fn volume_point() -> Option<&'static [u8]> {
    let bytes = POINT_BYTES.load(Ordering::Acquire);
    if bytes == 0 {
        return None;
    }
    // SAFETY: `map` has noted a part of the page, which is never unmapped.
    Some(unsafe { core::slice::from_raw_parts(POINT.load(Ordering::Relaxed), bytes) })
}

/// Returns the program's environment.
pub(crate) fn environment<'a>() -> Strings<'a> {
    unsafe extern "C" {
        static mut environ: *const *const c_char;
    }
    // SAFETY: libc's variable; a program that changes it during an exec races with itself anyway.
    let first = unsafe { environ };
    // SAFETY: null or a null-terminated array, by the rules of libc.
    unsafe { Strings::new(first) }
}

fn join() -> Option<()> {
    let path = environment().entries().find_map(|entry| entry.strip_prefix(PAGE_ENTRY))?;
    let fd = sys::open(path, sys::O_RDWR).ok()?;
    let joined = map(fd);
    sys::close(fd);
    joined
}

fn map(fd: core::ffi::c_int) -> Option<()> {
    let stat = sys::fstat(fd).ok().filter(|stat| is_own(stat, sys::effective_user()))?;
    let file_bytes = usize::try_from(stat.size).ok().filter(|&bytes| bytes > 0)?;
    let first = sys::map(fd, 0, file_bytes, false)?;
    // SAFETY: these bytes were just mapped, and are never unmapped.
    let page = Page::parse(unsafe { core::slice::from_raw_parts(first, file_bytes) })?;
    let (page_bytes, tally_bytes) = (page.page_bytes()?, page.tally_bytes());
    let sound = page_bytes % 4096 == 0
        && page_bytes.checked_add(tally_bytes)? <= file_bytes
        && page.preload_path().len() > 1
        && page.page_path().len() > 1
        && page.stub_path().len() > 1;
    if !sound {
        return None;
    }
    if tally_bytes >= size_of::<AtomicU64>() {
        TALLY.store(sys::map(fd, page_bytes, tally_bytes, true)?, Ordering::Relaxed);
        TALLY_WORDS.store(tally_bytes / size_of::<AtomicU64>(), Ordering::Relaxed);
    }
    if let Some(point) = page.volume_point() {
        POINT.store(point.as_ptr().cast_mut(), Ordering::Relaxed);
        POINT_BYTES.store(point.len(), Ordering::Release);
    }
    PAGE_BYTES.store(page_bytes, Ordering::Relaxed);
    PAGE.store(first, Ordering::Relaxed);
    Some(())
}

/// Tells whether only this user can have written the page, which names the program that this process
/// becomes when it walks.
fn is_own(stat: &sys::Stat, user: u32) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    stat.uid == user && stat.mode & OTHERS_WRITE == 0
}

fn mapped() -> Option<Session> {
    let page = PAGE.load(Ordering::Relaxed);
    // SAFETY: the state is OPEN, so `map` has mapped these bytes, which are never unmapped. The agent
    // changes one word in them, the gate, and readers accept any value of it.
    let page = unsafe { core::slice::from_raw_parts(page, PAGE_BYTES.load(Ordering::Relaxed)) };
    let words = TALLY_WORDS.load(Ordering::Relaxed);
    let tally: &'static [AtomicU64] = if words == 0 {
        &[]
    } else {
        // SAFETY: likewise; the mapping is page-aligned, writable, and accessed by atomics only.
        unsafe { core::slice::from_raw_parts(TALLY.load(Ordering::Relaxed).cast(), words) }
    };
    Some(Session { page: Page::parse(page)?, tally })
}
