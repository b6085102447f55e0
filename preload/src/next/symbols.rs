//! [unsafe] Finds the next functions in one pass over the objects behind this library, without `dlsym`: that would search all
//! of them for each function.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_STRTAB: usize = 5;
const DT_SYMTAB: usize = 6;
const DT_GNU_HASH: usize = 0x6fff_fef5;
const DT_VERSYM: usize = 0x6fff_fff0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
/// Marks a symbol whose version is not the default one.
const HIDDEN: u16 = 0x8000;

/// A function behind a hook. All lie in one section, in which the linker collects them.
pub(crate) struct Function {
    pub(super) name: &'static CStr,
    pub(super) address: AtomicPtr<c_void>,
    /// A version of it for programs that were linked with an older libc.
    pub(super) old: AtomicPtr<c_void>,
    /// The hash of its name in the tables of objects.
    hash: u32,
}

impl Function {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        let (address, old) =
            (AtomicPtr::new(core::ptr::null_mut()), AtomicPtr::new(core::ptr::null_mut()));
        Self { name, address, old, hash: hash(name.to_bytes()) }
    }

    pub(super) fn known(&self) -> Option<*mut c_void> {
        Some(self.address.load(Ordering::Relaxed)).filter(|address| !address.is_null())
    }
}

/// Returns the hash of a name, as in tables of the kind `DT_GNU_HASH`.
const fn hash(name: &[u8]) -> u32 {
    let (mut hash, mut rest) = (5381_u32, name);
    while let [byte, after @ ..] = rest {
        hash = hash.wrapping_mul(33).wrapping_add(*byte as u32);
        rest = after;
    }
    hash
}

/// The start of libc's `struct dl_phdr_info`.
#[repr(C)]
struct Object {
    base: usize,
    name: *const c_char,
    segments: *const Segment,
    segment_count: u16,
}

/// The kernel's `Elf64_Phdr`.
#[repr(C)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: usize,
    address: usize,
    physical: usize,
    file_bytes: usize,
    bytes: usize,
    align: usize,
}

/// The kernel's `Elf64_Sym`.
#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    bytes: usize,
}

type Callback = unsafe extern "C" fn(*const Object, usize, *mut c_void) -> c_int;

unsafe extern "C" {
    fn dl_iterate_phdr(callback: Callback, data: *mut c_void) -> c_int;
}

/// What the pass over the objects has met.
struct Pass<'f> {
    functions: &'f [Function],
    /// This library comes before the objects that are searched.
    is_behind: bool,
    /// Every object could be searched.
    is_whole: bool,
}

/// Finds the functions in the objects that the loader searches after this library. Returns false if `dlsym` has to find them.
pub(super) fn find(functions: &[Function]) -> bool {
    let mut pass = Pass { functions, is_behind: false, is_whole: true };
    // SAFETY: `visit` gets the pass.
    unsafe { dl_iterate_phdr(visit, (&raw mut pass).cast()) };
    pass.is_behind && pass.is_whole
}

/// Searches one object.
unsafe extern "C" fn visit(object: *const Object, _bytes: usize, pass: *mut c_void) -> c_int {
    // SAFETY: `find` passed it, and nobody else refers to it.
    let pass = unsafe { &mut *pass.cast::<Pass<'_>>() };
    // SAFETY: the loader's description of the object.
    let object = unsafe { &*object };
    // SAFETY: likewise.
    let segments =
        unsafe { core::slice::from_raw_parts(object.segments, object.segment_count.into()) };
    if !pass.is_behind {
        let own = (&raw const OWN).addr();
        pass.is_behind = segments.iter().any(|segment| {
            let start = object.base.wrapping_add(segment.address);
            segment.kind == PT_LOAD && (start..start.wrapping_add(segment.bytes)).contains(&own)
        });
        return 0;
    }
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
        return 0;
    };
    // SAFETY: the loader has mapped the object's dynamic section there.
    match unsafe { Table::read(object.base, object.base.wrapping_add(dynamic.address)) } {
        Some(table) => pass.is_whole &= pass.functions.iter().all(|function| table.offer(function)),
        // An object with a table of the old kind only.
        None => pass.is_whole = false,
    }
    c_int::from(!pass.is_whole)
}

/// Lies in this library.
static OWN: AtomicU32 = AtomicU32::new(0);

/// The symbols of an object.
struct Table {
    base: usize,
    symbols: *const Symbol,
    names: *const c_char,
    versions: *const u16,
    bucket_count: u32,
    first: u32,
    filter_words: u32,
    shift: u32,
    filter: *const u64,
    buckets: *const u32,
    chains: *const u32,
}

impl Table {
    /// # Safety
    /// The dynamic section of an object that is loaded at `base`.
    unsafe fn read(base: usize, dynamic: usize) -> Option<Self> {
        let (mut symbols, mut names, mut versions, mut hash) = (0, 0, 0, 0);
        let mut entry = core::ptr::with_exposed_provenance::<[usize; 2]>(dynamic);
        loop {
            // SAFETY: an entry of kind 0 ends the section.
            let [kind, value] = unsafe { entry.read() };
            // The loader has made addresses of them, where the section is writable.
            let address = if value < base { base.wrapping_add(value) } else { value };
            match kind {
                0 => break,
                DT_SYMTAB => symbols = address,
                DT_STRTAB => names = address,
                DT_VERSYM => versions = address,
                DT_GNU_HASH => hash = address,
                _ => {}
            }
            // SAFETY: the last entry has not come yet.
            entry = unsafe { entry.add(1) };
        }
        if symbols == 0 || names == 0 || hash == 0 {
            return None;
        }
        let hash = core::ptr::with_exposed_provenance::<u32>(hash);
        // SAFETY: the table of hashes begins with these.
        let [bucket_count, first, filter_words, shift] = unsafe { hash.cast::<[u32; 4]>().read() };
        if bucket_count == 0 || !filter_words.is_power_of_two() {
            return None;
        }
        // SAFETY: they are followed by the filter, the buckets and the chains.
        let filter = unsafe { hash.add(4) };
        // SAFETY: likewise.
        let buckets = unsafe { filter.add(2 * filter_words as usize) };
        // SAFETY: likewise.
        let chains = unsafe { buckets.add(bucket_count as usize) };
        Some(Self {
            base,
            symbols: core::ptr::with_exposed_provenance(symbols),
            names: core::ptr::with_exposed_provenance(names),
            versions: core::ptr::with_exposed_provenance(versions),
            bucket_count,
            first,
            filter_words,
            shift,
            filter: filter.cast(),
            buckets,
            chains,
        })
    }

    /// Gives a function its address if this object has it, and no object before. An old version counts if no object has a
    /// default one. Returns false if `dlsym` has to find it.
    fn offer(&self, function: &Function) -> bool {
        if function.known().is_some() {
            return true;
        }
        let hash = function.hash;
        let word = (hash / 64) & (self.filter_words - 1);
        let bits = (1_u64 << (hash % 64)) | (1 << ((hash >> (self.shift & 31)) % 64));
        // SAFETY: the filter has so many words.
        if unsafe { self.filter.wrapping_add(word as usize).read() } & bits != bits {
            return true;
        }
        // SAFETY: there are so many buckets.
        let mut index =
            unsafe { self.buckets.wrapping_add((hash % self.bucket_count) as usize).read() };
        if index < self.first {
            return true;
        }
        loop {
            // SAFETY: an odd value ends the chain.
            let found = unsafe { self.chains.wrapping_add((index - self.first) as usize).read() };
            if found | 1 == hash | 1 && !self.offer_symbol(function, index as usize) {
                return false;
            }
            if found & 1 != 0 {
                return true;
            }
            index += 1;
        }
    }

    fn offer_symbol(&self, function: &Function, index: usize) -> bool {
        // SAFETY: the chains have as many entries as there are symbols.
        let symbol = unsafe { &*self.symbols.wrapping_add(index) };
        // SAFETY: a symbol's name lies in the table of names.
        let name = unsafe { self.names.add(symbol.name as usize) };
        // SAFETY: likewise.
        let name = unsafe { CStr::from_ptr(name) };
        if symbol.section == 0 || name != function.name {
            return true;
        }
        if symbol.info & 15 == STT_GNU_IFUNC {
            return false;
        }
        if symbol.info & 15 != STT_FUNC {
            return true;
        }
        // SAFETY: there is one version for each symbol.
        let is_old = !self.versions.is_null()
            && unsafe { self.versions.wrapping_add(index).read() } & HIDDEN != 0;
        let address = core::ptr::with_exposed_provenance_mut(self.base.wrapping_add(symbol.value));
        let place: &AtomicPtr<c_void> = if is_old { &function.old } else { &function.address };
        // Of two, the first counts.
        let _ = place.compare_exchange(
            core::ptr::null_mut(),
            address,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        true
    }
}
