//! From the text of a bootstrap file to its configuration.

use std::fmt;

use outrigger_proto::{TextError, envoy::config::bootstrap::v3::Bootstrap as Proto};

use crate::{
    config::{bootstrap::Bootstrap, from_proto},
    convert::{ConfigError, Sink},
};

/// What the command line says over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--service-node`.
    pub node_id: Option<String>,
    /// `--service-cluster`.
    pub node_cluster: Option<String>,
}

/// Why a bootstrap can't be used.
#[derive(Debug)]
pub enum LoadError {
    /// The text is neither YAML nor JSON.
    Text(TextError),
    /// The content is wrong; every error found, each with its path.
    Content(Vec<ConfigError>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(error) => write!(f, "{error}"),
            Self::Content(errors) => {
                for (index, error) in errors.iter().enumerate() {
                    if index > 0 {
                        f.write_str("\n")?;
                    }
                    write!(f, "{error}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LoadError {}

/// Parses and converts a bootstrap.
///
/// # Errors
/// Every error of the text, with its path (or, where it does not parse, its line and column).
pub fn load(text: &str, overrides: &Overrides) -> Result<Bootstrap, LoadError> {
    let value = outrigger_proto::parse_yaml(text).map_err(LoadError::Text)?;
    let mut reading = outrigger_proto::read_message::<Proto>(&value);
    drop(value);
    let Some(mut proto) = reading.take_message() else {
        return Err(LoadError::Content(reading.errors().to_vec()));
    };
    let node = proto.node.get_or_insert_default();
    if let Some(id) = &overrides.node_id {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &overrides.node_cluster {
        node.cluster.clone_from(cluster);
    }
    node.user_agent_name = "outrigger".to_owned();
    let sink = Sink::new();
    let converted = from_proto::bootstrap(&sink.root(""), proto);
    let found = match sink.finish(converted) {
        Ok(bootstrap) if reading.errors().is_empty() => return Ok(bootstrap),
        Ok(_) => Vec::new(),
        Err(found) => found,
    };
    // One run shows what the text does not allow and what we do not support; what only follows from an
    // error that is already there is left out.
    let mut errors = reading.errors().to_vec();
    for error in found {
        let is_known = errors.iter().any(|known| known.path == error.path);
        if !(is_known || reading.explains(&error.path)) {
            errors.push(error);
        }
    }
    Err(LoadError::Content(errors))
}
