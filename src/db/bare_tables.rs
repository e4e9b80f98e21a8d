//! The tables of the bare limits, as both engines see them: rows of the size of an audited record.

diesel::table! {
    /// What an entry of the audit trail is.
    bare_entries (entry) {
        entry -> BigInt,
        record_offset -> BigInt,
        leaf_hash -> Binary,
        chain_hash -> Binary,
        mark -> Text,
        appended_at -> BigInt,
    }
}

diesel::table! {
    /// What a body is.
    bare_bodies (entry) {
        entry -> BigInt,
        recorded_at -> BigInt,
        time_type -> Integer,
        key -> Nullable<Binary>,
        headers -> Binary,
        payload -> Nullable<Binary>,
    }
}
