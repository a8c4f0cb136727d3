//! Checks bootstrap files, and says what reading them costs:
//! `cargo run -p outrigger-proto --example bootstrap -- envoy.yaml …`

#![allow(clippy::print_stdout, reason = "an example speaks to a person")]

use std::{env, error::Error, fs, process::ExitCode, time::Instant};

use outrigger_proto::{
    decode_resource, envoy::config::bootstrap::v3::Bootstrap, message_from_value, parse_yaml,
};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut exit = ExitCode::SUCCESS;
    for file in env::args().skip(1) {
        if !check(&file)? {
            exit = ExitCode::FAILURE;
        }
    }
    Ok(exit)
}

fn check(file: &str) -> Result<bool, Box<dyn Error>> {
    let text = fs::read_to_string(file)?;
    let (resident, start) = (resident_kib()?, Instant::now());
    let value = match parse_yaml(&text) {
        Ok(value) => value,
        Err(err) => {
            println!("{file}: {err}");
            return Ok(false);
        }
    };
    let parsed = start.elapsed();
    let read = message_from_value::<Bootstrap>(value);
    let total = start.elapsed();
    println!(
        "{file}: YAML {parsed:?}, message {:?}, resident memory +{} KiB",
        total - parsed,
        resident_kib()?.saturating_sub(resident),
    );
    match read {
        Ok(message) => {
            let wire = prost::Message::encode_to_vec(&message);
            let start = Instant::now();
            let again = decode_resource::<Bootstrap>(&wire).is_ok_and(|again| again == message);
            println!(
                "{file}: OK; {} bytes, decoded again in {:?}: {again}",
                wire.len(),
                start.elapsed()
            );
            Ok(again)
        }
        Err(errors) => {
            for error in errors {
                println!("{file}: {error}");
            }
            Ok(false)
        }
    }
}

fn resident_kib() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
