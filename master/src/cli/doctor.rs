//! `tesela doctor`: what keeps nodes from booting and from seeing each other.

use std::process::ExitCode;

use super::{Common, Failure, Outcome};
use crate::doctor;

pub(crate) fn run(common: &Common, json: bool) -> Outcome {
    let report = doctor::look(common.config(), common.state(), common.socket());
    println!("{}", if json { report.json() } else { report.to_string() });
    if report.is_well() { Ok(()) } else { Err(Failure::Status(ExitCode::FAILURE)) }
}
