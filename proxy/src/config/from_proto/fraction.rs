//! `FractionalPercent`, `RuntimeFractionalPercent`.

use outrigger_proto::envoy::{
    config::core::v3::RuntimeFractionalPercent,
    r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
};

use crate::{config::fraction::Fraction, convert::Cx, no_effect};

/// A fraction.
pub(crate) fn fraction(cx: &Cx<'_>, proto: FractionalPercent) -> Option<Fraction> {
    cx.converts::<FractionalPercent>();
    let FractionalPercent {
        numerator,
        denominator,
    } = proto;
    let denominator = match cx.enumeration("denominator", denominator)? {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    Some(Fraction {
        numerator,
        denominator,
    })
}

/// The fraction of an optional field; there is no runtime, so that the default value counts.
pub(crate) fn runtime_fraction(
    cx: &Cx<'_>,
    field: &str,
    proto: Option<RuntimeFractionalPercent>,
) -> Option<Fraction> {
    let cx = cx.field(field);
    cx.converts::<RuntimeFractionalPercent>();
    let RuntimeFractionalPercent {
        default_value,
        runtime_key,
    } = proto?;
    no_effect!(
        cx,
        RuntimeFractionalPercent,
        "there is no runtime to read keys from",
        [runtime_key]
    );
    let value = cx.required("default_value", default_value)?;
    fraction(&cx.field("default_value"), value)
}
