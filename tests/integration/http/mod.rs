//! The HTTP interface over real connections.

mod commands;
mod problems;
mod reads;
mod relay;
mod schemas;
mod server;
mod world;
