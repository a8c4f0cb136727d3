//! Whether a field of a message is set.

use std::collections::HashMap;

/// proto3 presence: a message or wrapper that is there, a scalar that is not its default.
pub trait IsSet {
    /// Whether the field is set.
    fn is_set(&self) -> bool;
}

macro_rules! scalars {
    ($($scalar:ty),*) => {
        $(impl IsSet for $scalar {
            fn is_set(&self) -> bool {
                *self != <$scalar>::default()
            }
        })*
    };
}

scalars!(bool, i32, u32, i64, u64, f64);

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<K, V> IsSet for HashMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}
