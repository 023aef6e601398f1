pub mod functions;
pub mod ids;
pub mod units;
