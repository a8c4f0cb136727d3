//! Reads protobuf's wire format into raw values, without knowing types beyond a table row.

use prost::{
    bytes::Buf,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use super::table::{Field, Kind, Message, Shape};

/// A value as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Raw<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// proto3 has none: it fits no field.
    Group,
}

impl Raw<'_> {
    fn fits(self, field: &Field) -> bool {
        let is_packed = field.shape == Shape::Repeated && matches!(self, Raw::Bytes(_));
        is_packed
            || match field.kind {
                Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => matches!(self, Raw::Fixed64(_)),
                Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => matches!(self, Raw::Fixed32(_)),
                Kind::String | Kind::Bytes | Kind::Message(_) => matches!(self, Raw::Bytes(_)),
                _ => matches!(self, Raw::Varint(_)),
            }
    }
}

/// The bytes are no message at all.
#[derive(Debug)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads the next field number and value; `None` at the end.
pub(crate) fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u32, Raw<'a>)>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (number, wire_type) = decode_key(bytes).map_err(|_| Malformed("invalid field key"))?;
    let raw = match wire_type {
        WireType::Varint => Raw::Varint(varint(bytes)?),
        WireType::ThirtyTwoBit => Raw::Fixed32(bytes.try_get_u32_le().map_err(|_| TRUNCATED)?),
        WireType::SixtyFourBit => Raw::Fixed64(bytes.try_get_u64_le().map_err(|_| TRUNCATED)?),
        WireType::LengthDelimited => {
            let len = usize::try_from(varint(bytes)?).map_err(|_| TRUNCATED)?;
            let (value, rest) = bytes.split_at_checked(len).ok_or(TRUNCATED)?;
            *bytes = rest;
            Raw::Bytes(value)
        }
        WireType::StartGroup | WireType::EndGroup => {
            skip_field(wire_type, number, bytes, DecodeContext::default())
                .map_err(|_| Malformed("invalid group"))?;
            Raw::Group
        }
    };
    Ok(Some((number, raw)))
}

const TRUNCATED: Malformed = Malformed("message is cut off");

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    decode_varint(bytes).map_err(|_| Malformed("invalid varint"))
}

/// A field and what stands for it on the wire.
pub(crate) type Entry<'a> = (&'static Field, Raw<'a>);

/// What is wrong with one field on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Misfit {
    /// Nobody knows a field of this number.
    Unknown(u32),
    /// The field's type is written in another way.
    WireType(&'static Field),
}

/// The known fields on the wire, sorted by number; of a oneof, only the member that counts. The
/// others go to `misfit`.
pub(crate) fn entries<'a>(
    row: &'static Message,
    mut wire: &'a [u8],
    mut misfit: impl FnMut(Misfit),
) -> Result<Vec<Entry<'a>>, Malformed> {
    let fields = row.fields();
    let mut entries: Vec<Entry<'a>> = Vec::new();
    let mut last_of_oneof: Vec<Option<u32>> = vec![None; row.oneofs().len()];
    while let Some((number, raw)) = next(&mut wire)? {
        let Some(field) = fields
            .binary_search_by_key(&number, |field| field.number)
            .ok()
            .and_then(|index| fields.get(index))
        else {
            misfit(Misfit::Unknown(number));
            continue;
        };
        if !raw.fits(field) {
            misfit(Misfit::WireType(field));
            continue;
        }
        if let Some(last) = field.oneof().and_then(|oneof| last_of_oneof.get_mut(oneof)) {
            if last.is_some_and(|last| last != number) {
                entries.retain(|(other, _)| other.oneof() != field.oneof());
            }
            *last = Some(number);
        }
        entries.push((field, raw));
    }
    // Stable: of a field given twice, the order on the wire counts.
    entries.sort_by_key(|(field, _)| field.number);
    Ok(entries)
}

/// The parts of a message that was given in parts, as one: their concatenation is their merge.
pub(crate) fn concatenate(parts: &[Entry<'_>]) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    for (_, raw) in parts {
        let Raw::Bytes(bytes) = raw else {
            return None;
        };
        all.extend_from_slice(bytes);
    }
    Some(all)
}

/// A value of a field that is no message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Int(i128),
    Float(f64),
    Bool(bool),
    Enum(i32),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Scalar<'a> {
    /// What an absent field without presence stands for.
    pub(crate) fn default_of(kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::Double | Kind::Float => Self::Float(0.0),
            Kind::Bool => Self::Bool(false),
            Kind::Enum(_) => Self::Enum(0),
            Kind::String => Self::Text(""),
            Kind::Bytes => Self::Bytes(&[]),
            Kind::Message(_) => return None,
            _ => Self::Int(0),
        })
    }

    /// The value as a key of a map in JSON and in paths.
    pub(crate) fn as_key(self) -> String {
        match self {
            Self::Text(text) => text.to_owned(),
            Self::Int(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            other => format!("{other:?}"),
        }
    }

    pub(crate) fn is_default(self) -> bool {
        match self {
            Self::Int(value) => value == 0,
            Self::Float(value) => value == 0.0,
            Self::Bool(value) => !value,
            Self::Enum(value) => value == 0,
            Self::Text(value) => value.is_empty(),
            Self::Bytes(value) => value.is_empty(),
        }
    }

    /// Reads a raw value; the error is a reason.
    pub(crate) fn read(kind: Kind, raw: Raw<'a>) -> Result<Self, &'static str> {
        // Varints of 32-bit types are cut to 32 bits, as protobuf and prost do.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "protobuf stores signed numbers in unsigned varints"
        )]
        Ok(match (kind, raw) {
            (Kind::Double, Raw::Fixed64(bits)) => Self::Float(f64::from_bits(bits)),
            (Kind::Float, Raw::Fixed32(bits)) => Self::Float(f32::from_bits(bits).into()),
            (Kind::Int32, Raw::Varint(value)) => Self::Int((value as i32).into()),
            (Kind::Int64, Raw::Varint(value)) => Self::Int((value as i64).into()),
            (Kind::Uint32, Raw::Varint(value)) => Self::Int((value as u32).into()),
            (Kind::Uint64, Raw::Varint(value)) => Self::Int(value.into()),
            (Kind::Sint32, Raw::Varint(value)) => {
                let value = value as u32;
                Self::Int((((value >> 1) as i32) ^ -((value & 1) as i32)).into())
            }
            (Kind::Sint64, Raw::Varint(value)) => {
                Self::Int((((value >> 1) as i64) ^ -((value & 1) as i64)).into())
            }
            (Kind::Fixed32, Raw::Fixed32(value)) => Self::Int(value.into()),
            (Kind::Fixed64, Raw::Fixed64(value)) => Self::Int(value.into()),
            (Kind::Sfixed32, Raw::Fixed32(value)) => Self::Int((value as i32).into()),
            (Kind::Sfixed64, Raw::Fixed64(value)) => Self::Int((value as i64).into()),
            (Kind::Bool, Raw::Varint(value)) => Self::Bool(value != 0),
            (Kind::Enum(_), Raw::Varint(value)) => Self::Enum(value as i32),
            (Kind::String, Raw::Bytes(bytes)) => {
                Self::Text(std::str::from_utf8(bytes).map_err(|_| "value is not valid UTF-8")?)
            }
            (Kind::Bytes, Raw::Bytes(bytes)) => Self::Bytes(bytes),
            _ => return Err("value has the wrong wire type"),
        })
    }

    /// Reads one entry of a repeated field, which may be a packed run of them.
    pub(crate) fn read_packed(
        kind: Kind,
        raw: Raw<'a>,
        mut each: impl FnMut(Result<Self, &'static str>),
    ) {
        let (mut bytes, is_text) = match raw {
            Raw::Bytes(bytes) => (bytes, matches!(kind, Kind::String | Kind::Bytes)),
            single => return each(Self::read(kind, single)),
        };
        if is_text {
            return each(Self::read(kind, raw));
        }
        while !bytes.is_empty() {
            let raw = match kind {
                Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => bytes
                    .try_get_u64_le()
                    .map(Raw::Fixed64)
                    .map_err(|_| TRUNCATED),
                Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => bytes
                    .try_get_u32_le()
                    .map(Raw::Fixed32)
                    .map_err(|_| TRUNCATED),
                _ => varint(&mut bytes).map(Raw::Varint),
            };
            match raw {
                Ok(raw) => each(Self::read(kind, raw)),
                Err(Malformed(reason)) => return each(Err(reason)),
            }
        }
    }
}
