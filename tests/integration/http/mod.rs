mod commands;
mod problems;
mod reads;
mod server;
mod world;
