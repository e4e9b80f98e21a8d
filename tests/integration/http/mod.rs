//! The HTTP interface over real connections.

mod commands;
mod gaps;
mod output;
mod problems;
mod reads;
mod ready;
mod relay;
mod schemas;
mod server;
mod uuids;
mod world;
