//! The `date` header, formatted once a second.

use std::{
    cell::{Cell, RefCell},
    time::{SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;

/// The value of the current second.
#[derive(Debug)]
pub(super) struct DateCache {
    second: Cell<u64>,
    value: RefCell<HeaderValue>,
}

impl Default for DateCache {
    fn default() -> Self {
        Self {
            second: Cell::new(u64::MAX),
            value: RefCell::new(HeaderValue::from_static("")),
        }
    }
}

impl DateCache {
    /// The header value for a moment.
    pub(super) fn at(&self, now: SystemTime) -> HeaderValue {
        let second = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if self.second.replace(second) != second {
            let text = httpdate::fmt_http_date(now);
            if let Ok(value) = HeaderValue::try_from(text) {
                *self.value.borrow_mut() = value;
            }
        }
        self.value.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_date_follows_the_seconds() {
        let cache = DateCache::default();
        let start = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(cache.at(start), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(
            cache.at(start + Duration::from_millis(999)),
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
        assert_eq!(
            cache.at(start + Duration::from_secs(1)),
            "Sun, 06 Nov 1994 08:49:38 GMT"
        );
    }
}
