//! A walk as its runner is told of it.

use worknode::spec::{SPEC_VERSION, WalkSpec};

use crate::file::Golden;
use crate::messages;

#[test]
fn the_spec() {
    let mut golden = Golden::of("spec", u32::from(SPEC_VERSION));
    let all = messages::spec(1);
    let least = WalkSpec { fds: Vec::new(), terminal: None, rlimits: Vec::new(), ..all.clone() };
    for (name, spec) in [("all", all), ("least", least)] {
        golden.check(name, "Spec, after its version", &spec, &spec.encode(), |bytes| {
            WalkSpec::decode(bytes).ok()
        });
    }
    golden.finish();
}
