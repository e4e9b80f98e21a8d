//! What every store must do: the same tests for the fake and for each database (house style 33).
//!
//! Promises that a store which passes may stand behind the lanes and the orchestrator. Each function takes a
//! store that is new and empty, and panics where a promise is broken. Does not test durability, disk limits or
//! errors of one engine: those are tested beside the adapter.
//!
//! ```ignore
//! // In a test module; the expression gives a new store and what must live as long as it.
//! horizons_actors::store_contract!((Arc::new(MemoryStore::new()), ()));
//! ```

pub mod gaps;
pub mod jobs;
pub mod lanes;
pub mod layouts;
pub mod log;
pub mod outbox;
pub mod pages;
pub mod parking;
pub mod queries;
pub mod sample;
pub mod trials;
pub mod wishes;

use crate::ports::log::RecordSource;
use crate::ports::query::QueryStore;
use crate::ports::store::{JobStore, LaneStore};

/// A store with all its ports.
pub trait Store: LaneStore + JobStore + QueryStore + RecordSource + 'static {}

impl<T: LaneStore + JobStore + QueryStore + RecordSource + 'static> Store for T {}

/// Makes one test of each function of the contract. The argument is an expression that gives a new store in
/// an `Arc` and a value that is dropped after it. The calling crate needs tokio's `macros` and `rt`.
#[macro_export]
macro_rules! store_contract {
    ($make:expr) => {
        $crate::store_contract!(@each $make;
            lanes::open_lane_first_time_finds_nothing,
            lanes::open_lane_again_raises_epoch,
            lanes::commit_right_fence_moves_progress,
            lanes::commit_wrong_fence_or_position_writes_nothing,
            lanes::commit_before_open_is_fenced,
            lanes::commit_queued_before_open_is_seen_by_it,
            lanes::commit_queued_after_open_is_fenced,
            lanes::commit_of_zombies_any_interleaving_is_fenced,
            lanes::commit_refused_effect_writes_nothing,
            lanes::commit_bad_member_of_group_spares_others,
            lanes::commit_backwards_is_refused,
            lanes::load_after_commit_sees_it,
            lanes::load_state_extreme_values_round_trip,
            lanes::load_state_of_two_lanes_is_apart,
            lanes::timers_set_replaced_cleared_fall_due_in_order,
            lanes::hold_outlives_owner_until_resumed,
            layouts::layout_begins_with_the_first_lane_and_grows_once,
            layouts::adoption_fences_every_lane_of_the_topic,
            layouts::positions_are_seen_and_rows_move_between_lanes,
            trials::open_lane_counts_processes_that_did_not_end_in_order,
            trials::open_lane_counts_anew_where_the_lane_moved,
            trials::trial_is_charged_in_phase_trying_alone,
            trials::trial_of_same_process_is_not_charged,
            trials::trial_of_process_with_witness_is_charged_for_what_was_seen_alone,
            trials::trial_survived_forgets_deaths,
            trials::trial_settled_with_its_effects,
            trials::trial_of_what_is_gone_is_forgotten,
            trials::trial_and_end_of_other_epoch_write_nothing,
            trials::trials_of_every_subject_are_apart,
            gaps::gaps_page_open_ones_first_then_the_newest_decided,
            gaps::gap_found_again_is_one_row_with_what_was_found_last,
            gaps::gap_gone_by_itself_is_forgotten,
            gaps::gap_of_other_epoch_is_not_noted,
            gaps::gap_accepted_as_seen_or_not_at_all,
            gaps::gap_trimmed_accepted_goes_on_at_low_and_fences,
            gaps::gap_corrupt_accepted_goes_on_behind_it,
            gaps::gap_replaced_accepted_begins_new_generation,
            gaps::generations_are_listed_side_by_side,
            log::append_records_answers_offsets_without_holes,
            log::append_concurrent_writers_leave_no_holes,
            log::append_tells_heads_before_it_answers,
            log::read_stops_at_each_limit,
            log::read_largest_and_oddest_records_round_trip,
            pages::lists_of_large_rows_end_their_pages_early,
            pages::audit_entries_of_large_records_end_their_pages_early,
            pages::list_row_larger_than_a_page_comes_alone,
            pages::jobs_of_other_producers_are_listed_among_our_own,
            parking::park_record_twice_same_bytes_is_ignored,
            parking::park_record_twice_other_bytes_is_refused,
            parking::park_record_without_parked_key_is_refused,
            parking::park_key_again_waits_for_new_wish,
            parking::unpark_key_with_records_left_is_refused,
            parking::unpark_key_and_park_again_in_one_transaction_stays_parked,
            parking::load_parked_gives_offset_order_and_limit,
            parking::set_parked_wish_key_not_parked_writes_nothing,
            parking::set_parked_wish_is_seen_by_lane_with_audit_record,
            parking::set_parked_wish_release_beyond_limit_writes_nothing,
            parking::dead_letter_settled_changes_state,
            parking::dead_letters_page_in_order_of_lane_and_offset,
            wishes::wishes_that_are_stored_are_listed_and_no_others,
            wishes::wish_to_cancel_is_listed,
            wishes::wishes_read_again_and_again_are_all_seen,
            jobs::write_job_everything_round_trips,
            jobs::write_job_decided_without_the_wish_to_cancel_conflicts,
            jobs::write_job_new_twice_conflicts,
            jobs::write_job_other_sequences_conflicts_and_writes_nothing,
            jobs::write_job_concurrent_writers_one_wins,
            jobs::write_job_event_is_remembered_by_sequence,
            jobs::write_job_same_idempotency_key_is_same_job,
            jobs::orders_are_unique_by_job_attempt_and_kind,
            jobs::orders_are_listed_oldest_first_until_answered,
            jobs::answer_order_unknown_conflicts,
            jobs::answer_order_within_write_job_needs_the_order,
            jobs::live_jobs_page_without_terminal_ones,
            queries::jobs_page_newest_first_by_each_filter,
            queries::jobs_whose_ids_begin_alike_come_in_order_of_id,
            queries::job_views_timeline_and_refusals_are_of_the_job,
            queries::job_views_retired_are_not_live_and_then_gone,
            queries::aggregates_and_counts_are_summed_over_lanes,
            queries::audit_entries_pages_join_without_gap,
            queries::audit_entries_of_job_are_found_among_others,
            queries::progress_ends_and_parked_keys_are_listed_in_order,
        );
    };
    (@each $make:expr; $($module:ident :: $name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (store, _kept) = $make;
                $crate::testkit::contract::$module::$name(store).await;
            }
        )*
    };
}

/// Makes one test of each function of the relay's side of the contract; see [`store_contract`].
///
/// [`store_contract`]: crate::store_contract
#[macro_export]
macro_rules! outbox_contract {
    ($make:expr) => {
        $crate::store_contract!(@each $make;
            layouts::layout_that_is_begun_waits_until_what_was_written_before_is_sent,
            outbox::take_lease_first_time_gives_every_cursor_at_start,
            outbox::take_lease_again_fences_older_epoch,
            outbox::advance_cursors_from_elsewhere_is_refused_alone,
            outbox::advance_cursors_records_tail_and_never_goes_back,
            outbox::read_outbox_several_partitions_within_limits,
            outbox::outbox_heads_follow_commits_of_dead_letters_too,
            outbox::set_aside_at_cursor_keeps_record_and_moves_on,
            outbox::set_aside_elsewhere_writes_nothing,
            outbox::remove_sent_keeps_tail_and_everything_above_cursor,
        );
    };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::testkit::MemoryStore;

    crate::store_contract!((Arc::new(MemoryStore::new()), ()));
    crate::outbox_contract!((Arc::new(MemoryStore::new()), ()));
}
