//! Random histories of the block directory, of the index and of the reverse, each beside a model of it. Tests only.

mod blocks;
mod index;
mod reverse;

use proptest::test_runner::{Config, RngAlgorithm};

/// How random histories are tried: so many `cases`, or as many as `PROPTEST_CASES` says.
pub(crate) fn config(cases: u32, max_shrink_iters: u32) -> Config {
    let usual = Config::default();
    Config {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() {
            usual.cases
        } else {
            cases
        },
        failure_persistence: None,
        // The default generator takes most of the time of an unoptimized test.
        rng_algorithm: RngAlgorithm::XorShift,
        max_shrink_iters,
        ..usual
    }
}
