//! Tests a property with random values for a fixed time.

use std::env;
use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Time for one property: enough for thousands of values.
const TIME: Duration = Duration::from_secs(2);
/// Values between two checks of the clock.
const CASES: u32 = 64;

/// Tests that `property` holds for random values.
pub(crate) fn holds<S: Strategy>(values: &S, property: impl Fn(S::Value))
where
    S::Value: Debug,
{
    let until = Instant::now() + TIME;
    while_holds(values, property, |_| Instant::now() < until);
}

/// Tests that `property` holds for so many random values, or more.
pub(crate) fn holds_for<S: Strategy>(count: u32, values: &S, property: impl Fn(S::Value))
where
    S::Value: Debug,
{
    while_holds(values, property, |tested| tested < count);
}

/// Tests random values as long as `goes_on` says so of their number.
fn while_holds<S: Strategy>(values: &S, property: impl Fn(S::Value), goes_on: impl Fn(u32) -> bool)
where
    S::Value: Debug,
{
    let seed = env::var("OSWALK_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(since.subsec_nanos()) ^ since.as_secs()
    });
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_le_bytes(); 4].concat());
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let mut tested = 0;
    while goes_on(tested) {
        let held = runner.run(values, |value| {
            property(value);
            Ok(())
        });
        if let Err(error) = held {
            panic!("OSWALK_SEED={seed}: {error}");
        }
        tested += CASES;
    }
}
