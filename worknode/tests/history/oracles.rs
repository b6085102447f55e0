//! Other implementations of the same ideas: `crdts` has a register of concurrent values, `uhlc` a hybrid logical clock.

use std::cell::Cell;
use std::time::Duration;

use crdts::{CmRDT, MVReg};
use uhlc::{HLC, HLCBuilder, NTP64};
use worknode::history::{AHEAD_MS_MAX, Author, Clock, Dot, Hlc, Register, Stamp};

use crate::random::{Random, for_seeds};

const HISTORIES: u64 = 10_000;
const STEPS: usize = 40;

/// One replica of both registers, and what it has applied: values with the versions that they replaced.
#[derive(Default)]
struct Replica {
    ours: Register<u64>,
    theirs: MVReg<u64, u8>,
    log: Vec<(Stamp, Vec<Dot>, crdts::mvreg::Op<u64, u8>)>,
}

impl Replica {
    fn write(&mut self, author: u8, value: u64) {
        let dot = Dot { author: Author([author; 16]), seq: value };
        let parents = self.ours.parents().collect();
        let op = self.theirs.write(value, self.theirs.read().derive_add_ctx(author));
        self.learn((Stamp { hlc: Hlc(value), dot }, parents, op));
    }

    fn learn(&mut self, entry: (Stamp, Vec<Dot>, crdts::mvreg::Op<u64, u8>)) {
        if !self.log.contains(&entry) {
            let (stamp, parents, op) = entry.clone();
            self.ours.set(stamp, stamp.dot.seq, |other| parents.contains(&other.dot));
            self.theirs.apply(op);
            self.log.push(entry);
        }
    }

    fn compare(&self) {
        let ours: Vec<u64> = self.ours.heads().iter().map(|head| head.value).collect();
        let mut theirs = self.theirs.read().val;
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
    }
}

#[test]
fn a_register_has_the_heads_of_another_implementation() {
    for_seeds(HISTORIES, |seed| {
        let mut random = Random(seed);
        let mut replicas: [Replica; 3] = Default::default();
        for value in 1..=STEPS as u64 {
            let at = random.below(replicas.len());
            if random.percent(50) {
                replicas[at].write(u8::try_from(at).expect("few"), value);
            } else {
                let other = random.below(replicas.len());
                replicas[other].log.clone().into_iter().for_each(|entry| replicas[at].learn(entry));
            }
            replicas[at].compare();
        }
    });
}

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(0) };
}

/// In the middle of a millisecond, so that rounding does not leave it.
fn now() -> NTP64 {
    NTP64::from(Duration::from_millis(NOW_MS.get()) + Duration::from_micros(500))
}

fn theirs() -> HLC {
    let ahead = Duration::from_millis(AHEAD_MS_MAX);
    HLCBuilder::new().with_clock(now).with_max_delta(ahead).build()
}

#[test]
fn a_clock_goes_as_another_implementation_does() {
    for_seeds(HISTORIES, |seed| {
        let mut random = Random(seed);
        let mut clocks: [(Clock, HLC); 2] =
            [(Clock::default(), theirs()), (Clock::default(), theirs())];
        let mut walls = [1_000_000; 2];
        for _ in 0..STEPS {
            let at = random.below(2);
            // By sevens, so that no difference is exactly the greatest that is believed.
            walls[at] += 7 * (random.next() % 4) * if random.percent(10) { 2000 } else { 1 };
            NOW_MS.set(walls[at]);
            let (ours, theirs) = (clocks[at].0.tick(walls[at]), clocks[at].1.new_timestamp());
            assert_eq!(u128::from(ours.ms()), theirs.get_time().to_duration().as_millis());

            let wall = walls[1 - at];
            NOW_MS.set(wall);
            let (other, their_other) = &mut clocks[1 - at];
            let is_believed = other.observe(ours, wall).is_ok();
            assert_eq!(is_believed, their_other.update_with_timestamp(&theirs).is_ok());
        }
    });
}
