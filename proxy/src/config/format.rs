//! Format strings with command operators (`SubstitutionFormatString`).

/// A parsed format.
#[derive(Clone, Debug, PartialEq)]
pub struct Format;
