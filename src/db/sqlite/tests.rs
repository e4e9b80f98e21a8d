//! The SQLite store: the contract of every store, and what only this engine promises.

mod contract {
    use std::sync::Arc;

    use tempfile::TempDir;

    use crate::db::sqlite::{SqliteConfig, SqliteStore};

    fn new_store() -> (Arc<SqliteStore>, TempDir) {
        let folder = TempDir::new().unwrap();
        let store = SqliteStore::open(SqliteConfig::new(folder.path())).unwrap();
        (Arc::new(store), folder)
    }

    horizons_actors::store_contract!(new_store());
}
