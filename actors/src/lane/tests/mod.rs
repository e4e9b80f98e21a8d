//! Lanes, dispatcher and supervisor as a whole, over the test kit's store and log.

mod brake;
mod corrupt;
mod faults;
mod flood;
mod home;
mod joined;
mod lag;
mod layout;
mod ownership;
mod parking;
mod passing;
mod properties;
mod rebalance;
mod regression;
mod trials;
mod world;
