mod commands;
mod problems;
mod reads;
mod schemas;
mod server;
mod world;
