//! One suite for every engine: what the agent relies on must not depend on which engine it has. Each
//! test of [`suite`] runs on Docker and on processes; what only one of them promises is in [`docker`]
//! and [`process`].
//!
//! The Docker half needs a Docker Engine and says so where none answers. Every test has a cluster of
//! its own, and what it leaves behind is removed even when it fails.

#![expect(clippy::unwrap_used, reason = "all of it is tests; clippy sees only those that say so themselves")]

mod bench;
mod docker;
mod image;
mod process;
mod program;
mod registry;
mod suite;

/// Defines each test of the suite once per engine.
macro_rules! on_every_engine {
    ($($test:ident),* $(,)?) => {
        mod on_docker {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    let Some(bench) = crate::bench::Bench::docker().await else { return };
                    crate::suite::$test(&bench).await;
                }
            )*
        }
        mod on_processes {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    crate::suite::$test(&crate::bench::Bench::process()).await;
                }
            )*
        }
    };
}

on_every_engine!(
    serves_from_launch_to_stop,
    gets_its_environment,
    a_repeated_launch_finds_the_same_instance,
    an_exit_is_reported,
    a_crash_is_noticed,
    a_stubborn_program_is_killed_after_the_grace,
    a_polite_program_ends_within_the_grace,
    one_that_is_paused_stands_still_and_goes_on,
    stopping_the_unknown_is_fine,
    a_program_that_does_not_listen_is_not_ready,
    readiness_waits_for_its_path,
    others_are_not_listed,
    output_is_bounded,
    lines_are_kept_beyond_the_end,
    followers_see_lines_as_they_come_and_the_end,
    output_of_deleted_functions_is_removed,
    the_source_of_the_other_engine_is_refused,
);
