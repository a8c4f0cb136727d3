//! Logs of rare events (ejections, health checks): whole lines into the same files as access logs.

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;

use super::{AccessLogs, buffer, writer::SinkFile};
use crate::config::access_log::Sink;

/// An open event log.
#[derive(Clone, Debug)]
pub struct EventLog(Arc<SinkFile>);

impl AccessLogs {
    /// Opens an event log; logs of one path share the file.
    ///
    /// # Errors
    /// The file cannot be opened; the text says why.
    pub fn event_log(&self, path: &Path) -> Result<EventLog, String> {
        self.writer.open(&Sink::File(path.into())).map(EventLog)
    }
}

impl EventLog {
    /// Writes a line, its end included.
    pub fn write(&self, line: &str) {
        buffer::append(&self.0, |out, _| out.extend_from_slice(line.as_bytes()));
    }

    /// A moment as protobuf's JSON has it, to the millisecond.
    #[must_use]
    pub fn timestamp(moment: SystemTime) -> String {
        let since_epoch = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(millis)
            .map(|timestamp| format!("{timestamp:.3}"))
            .unwrap_or_default()
    }
}
