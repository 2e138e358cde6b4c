//! Integration tests of the crate, in one binary because linking is what costs.

mod client_edges;
mod cycles;
mod dialect;
mod edges;
mod fault_kinds;
mod fault_matrix;
mod faults_of_ours;
mod handle;
mod hostile;

mod old_grammar;
mod plans;
mod probe;
mod proto_round_trip;
mod proto_rules;
mod qemu_nbd;
mod real_servers;
mod reconnect;
mod server_modes;
mod streams;
mod support;
mod tls;
mod traps;
mod uris;
mod violations;
