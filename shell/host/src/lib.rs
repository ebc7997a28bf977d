//! The agent (keys, links, machines) and the worker process (engine; no keys, no sockets but the one inherited).

pub mod control;
pub mod worker;
