//! What to tell the user about each object: Kubernetes conditions.

use std::fmt;

use serde::Serialize;

/// A condition of an object, in Kubernetes' sense.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs` or `Programmed`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word for machines, from the Gateway API where it has one.
    pub reason: &'static str,
    /// The rest for people; names fields by their path.
    pub message: String,
}

impl Condition {
    /// `Accepted`: the object is valid, implemented and attached.
    pub const ACCEPTED: &'static str = "Accepted";
    /// `ResolvedRefs`: everything it names is there and may be used.
    pub const RESOLVED_REFS: &'static str = "ResolvedRefs";
    /// `Programmed`: the proxies have taken it.
    pub const PROGRAMMED: &'static str = "Programmed";

    /// A condition that holds.
    pub fn met(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: ConditionStatus::True,
            reason,
            message: message.into(),
        }
    }

    /// A condition that does not hold.
    pub fn unmet(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: ConditionStatus::False,
            reason,
            message: message.into(),
        }
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Not known yet.
    Unknown,
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}

/// All conditions of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ObjectStatus {
    /// Of the object as a whole; empty for routes, which have conditions per parent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Of a route, per parent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentStatus>,
}

impl ObjectStatus {
    /// Whether it is in force anywhere.
    pub fn is_accepted(&self) -> bool {
        let accepted = |conditions: &[Condition]| {
            conditions.iter().any(|condition| {
                condition.kind == Condition::ACCEPTED && condition.status == ConditionStatus::True
            })
        };
        accepted(&self.conditions)
            || self
                .parents
                .iter()
                .any(|parent| accepted(&parent.conditions))
    }
}

/// Conditions of a route for one of its parents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParentStatus {
    /// Such as `Service/shop/reviews:9080`.
    pub parent: String,
    /// `Accepted` and `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}
