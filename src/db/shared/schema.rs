//! The tables as diesel sees them; what they mean stands in `migrations/sqlite`.

diesel::table! { store_identity (one) { one -> BigInt, log_id -> Text, created_at -> BigInt, } }

diesel::table! {
    lanes (lane) {
        lane -> BigInt,
        log_id -> Text,
        group_name -> Text,
        topic -> BigInt,
        partition -> BigInt,
        generation -> BigInt,
    }
}

diesel::table! {
    progress (lane) {
        lane -> BigInt,
        next_offset -> Nullable<BigInt>,
        owner_epoch -> BigInt,
        revision -> BigInt,
        last_fingerprint -> Nullable<Binary>,
        starts_at_next -> BigInt,
        desired -> Text,
        opened_by -> Nullable<Binary>,
        ended_in_order -> Integer,
        starts_aside -> BigInt,
        held_because -> Nullable<Text>,
    }
}

diesel::table! {
    layout_epochs (log_id, topic, epoch) {
        log_id -> Text,
        topic -> BigInt,
        epoch -> BigInt,
        partitions -> BigInt,
        from_offsets -> Binary,
        adopted_at -> BigInt,
    }
}

diesel::table! {
    log (position) {
        position -> BigInt,
        recorded_at -> BigInt,
        time_type -> Integer,
        key -> Nullable<Binary>,
        headers -> Binary,
        payload -> Nullable<Binary>,
    }
}

diesel::table! {
    log_head (topic, partition) {
        topic -> BigInt,
        partition -> BigInt,
        next_offset -> BigInt,
        spread -> Nullable<BigInt>,
        held_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    audit_logs (lane) {
        lane -> BigInt,
        size -> BigInt,
        chain_head -> Binary,
        frontier -> Binary,
        last_offset -> Nullable<BigInt>,
        segment_number -> BigInt,
        segment_first -> BigInt,
        segment_opened_at -> BigInt,
    }
}

diesel::table! {
    audit_entries (entry) {
        entry -> BigInt,
        record_offset -> BigInt,
        leaf_hash -> Binary,
        chain_hash -> Binary,
        mark -> Text,
        appended_at -> BigInt,
    }
}

diesel::table! {
    audit_bodies (entry) {
        entry -> BigInt,
        recorded_at -> BigInt,
        time_type -> Integer,
        key -> Nullable<Binary>,
        headers -> Binary,
        payload -> Nullable<Binary>,
    }
}

diesel::table! {
    audit_runs (lane, first_index) {
        lane -> BigInt,
        first_index -> BigInt,
        base_entry -> BigInt,
        entries -> BigInt,
    }
}

diesel::table! {
    audit_segments (lane, number) {
        lane -> BigInt,
        number -> BigInt,
        first_index -> BigInt,
        end_index -> BigInt,
        opened_at -> BigInt,
        closed_at -> BigInt,
    }
}

diesel::table! {
    jobs (job_id) {
        job_id -> Text,
        user_id -> Text,
        agent -> Text,
        dataset_id -> Text,
        parameters -> Text,
        tacc_system -> Text,
        correlation_id -> Binary,
        status -> Text,
        attempt -> BigInt,
        will_retry -> Bool,
        is_live -> Bool,
        lifecycle_sequence -> BigInt,
        metrics_sequence -> BigInt,
        scheduler_job_id -> Nullable<Text>,
        samples_published -> BigInt,
        cancelled_by -> Nullable<Text>,
        cancel_reason -> Nullable<Text>,
        cancel_requested_at -> Nullable<BigInt>,
        error_code -> Nullable<Text>,
        error_message -> Nullable<Text>,
        execution_time_seconds -> Nullable<Double>,
        submitted_at -> BigInt,
        updated_at -> BigInt,
        lifecycle_partition -> Nullable<BigInt>,
        metrics_partition -> Nullable<BigInt>,
    }
}

diesel::table! {
    job_events (job_id, sequence) { job_id -> Text, sequence -> BigInt, event_id -> Binary, }
}

diesel::table! {
    orders (number) {
        number -> BigInt,
        job_id -> Text,
        attempt -> BigInt,
        kind -> Text,
        ordered_at -> BigInt,
        is_answered -> Bool,
        refusal -> Nullable<Text>,
    }
}

diesel::table! {
    idempotency_keys (user_id, key) {
        user_id -> Text,
        key -> Text,
        request_digest -> Binary,
        job_id -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    job_views (job_id, lane) {
        job_id -> Text,
        lane -> BigInt,
        is_owned -> Bool,
        user_id -> Text,
        agent -> Nullable<Text>,
        tacc_system -> Nullable<Text>,
        status -> Text,
        attempt -> BigInt,
        will_retry -> Bool,
        is_confirmed -> Bool,
        last_sequence -> BigInt,
        last_event_id -> Binary,
        submitted_at -> BigInt,
        status_since -> BigInt,
        updated_at -> BigInt,
    }
}

diesel::table! { live_job_views (job_id, lane) { job_id -> Text, lane -> BigInt, } }

diesel::table! {
    job_timeline (job_id, sequence, lane, record_offset) {
        job_id -> Text,
        lane -> BigInt,
        record_offset -> BigInt,
        event_id -> Binary,
        event_type -> Text,
        sequence -> BigInt,
        status -> Text,
        attempt -> BigInt,
        happened_at -> BigInt,
        applied_at -> BigInt,
        payload -> Text,
    }
}

diesel::table! {
    job_aggregates (job_id, attempt, lane) {
        job_id -> Text,
        attempt -> BigInt,
        lane -> BigInt,
        cpu_count -> BigInt,
        cpu_sum -> Double,
        cpu_min -> Double,
        cpu_max -> Double,
        memory_count -> BigInt,
        memory_sum -> Double,
        memory_min -> Double,
        memory_max -> Double,
        io_count -> BigInt,
        io_sum -> Double,
        io_min -> Double,
        io_max -> Double,
        time_count -> BigInt,
        time_sum -> Double,
        time_min -> Double,
        time_max -> Double,
        last_sequence -> Nullable<BigInt>,
        summary_cpu -> Nullable<Double>,
        summary_memory -> Nullable<Double>,
        summary_io -> Nullable<BigInt>,
        summary_time -> Nullable<Double>,
        updated_at -> BigInt,
    }
}

diesel::table! {
    status_counts (lane, status) { lane -> BigInt, status -> Text, entered -> BigInt, }
}

diesel::table! {
    job_sequences (job_id, lane) { job_id -> Text, lane -> BigInt, last_sequence -> BigInt, }
}

diesel::table! {
    refusals (refusal) {
        refusal -> BigInt,
        event_id -> Binary,
        job_id -> Nullable<Text>,
        event_type -> Text,
        reason -> Text,
        detail -> Text,
        refused_at -> BigInt,
    }
}

diesel::table! {
    timers (lane, kind, key) { lane -> BigInt, kind -> Text, key -> Text, due_at -> BigInt, }
}

diesel::table! {
    dead_letters (letter) {
        letter -> BigInt,
        recorded_at -> BigInt,
        time_type -> Integer,
        key -> Nullable<Binary>,
        headers -> Binary,
        payload -> Nullable<Binary>,
        reason -> Text,
        detail -> Text,
        state -> Text,
        attempts -> BigInt,
        rejected_at -> BigInt,
        updated_at -> BigInt,
    }
}

diesel::table! {
    parked_keys (lane, key) {
        lane -> BigInt,
        key -> Binary,
        head_offset -> BigInt,
        reason -> Text,
        detail -> Text,
        records -> BigInt,
        wish -> Text,
        wished_by -> Nullable<Binary>,
        parked_at -> BigInt,
    }
}

diesel::table! {
    parked_records (lane, key, record_offset) {
        lane -> BigInt,
        key -> Binary,
        record_offset -> BigInt,
        recorded_at -> BigInt,
        time_type -> Integer,
        record_key -> Nullable<Binary>,
        headers -> Binary,
        payload -> Nullable<Binary>,
        parked_at -> BigInt,
    }
}

diesel::table! {
    outbox_cursors (topic, partition) {
        topic -> BigInt,
        partition -> BigInt,
        next_offset -> BigInt,
        tail_offset -> Nullable<BigInt>,
        kept_offset -> BigInt,
        epoch -> BigInt,
    }
}

diesel::table! {
    outbox_set_aside (position) {
        position -> BigInt,
        recorded_at -> BigInt,
        time_type -> Integer,
        key -> Nullable<Binary>,
        headers -> Binary,
        payload -> Nullable<Binary>,
        command_id -> Binary,
        set_aside_at -> BigInt,
    }
}

diesel::table! {
    wishes (kind, subject, place) { kind -> BigInt, subject -> BigInt, place -> BigInt, revision -> BigInt, }
}

diesel::table! {
    trials (lane, kind, record_offset, timer_kind, timer_key) {
        lane -> BigInt,
        kind -> Text,
        record_offset -> BigInt,
        timer_kind -> Text,
        timer_key -> Text,
        deaths -> BigInt,
        is_trying -> Integer,
        is_convicted -> Integer,
    }
}

diesel::table! {
    gaps (gap) {
        gap -> BigInt,
        lane -> BigInt,
        kind -> Text,
        next_offset -> BigInt,
        low_offset -> BigInt,
        high_offset -> BigInt,
        found_at -> BigInt,
        decided_at -> Nullable<BigInt>,
        decided_by -> Nullable<Text>,
        command_id -> Nullable<Binary>,
        reason -> Nullable<Text>,
    }
}

diesel::allow_tables_to_appear_in_same_query!(job_views, live_job_views);
diesel::allow_tables_to_appear_in_same_query!(job_views, jobs);
