//! The annotations by which a pod changes its sidecar: each has one row in [`ANNOTATIONS`].

use outrigger_mesh::scope::OutboundPolicy;

use super::{INJECT, Options, Pod, Redirect, STATUS};
use crate::{Problem, redirect};

/// What all our labels and annotations begin with.
pub const PREFIX: &str = "outrigger.dev/";

/// One annotation.
#[derive(Clone, Copy)]
pub struct Annotation {
    /// Its name without [`PREFIX`].
    pub name: &'static str,
    /// What values it takes.
    pub values: &'static str,
    apply: fn(&str, &mut Options) -> Result<(), String>,
}

impl std::fmt::Debug for Annotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Annotation")
            .field("name", &self.name)
            .field("values", &self.values)
            .finish_non_exhaustive()
    }
}

macro_rules! annotations {
    ($($name:literal, $values:literal, $apply:expr;)*) => {
        /// Every annotation that changes a sidecar.
        pub const ANNOTATIONS: &[Annotation] = &[$(Annotation { name: $name, values: $values, apply: $apply }),*];
    };
}

annotations! {
    "image", "an image reference", |text, options| set(&mut options.image, image(text));
    "cpu", "a quantity such as 50m", |text, options| set(&mut options.cpu, quantity(text));
    "cpu-limit", "a quantity such as 2", |text, options| set(&mut options.cpu_limit, quantity(text));
    "memory", "a quantity such as 32Mi", |text, options| set(&mut options.memory, quantity(text));
    "memory-limit", "a quantity such as 512Mi", |text, options| set(&mut options.memory_limit, quantity(text));
    "log-level", "trace, debug, info, warning, error, critical, off", |text, options| {
        set(&mut options.log_level, one_of(text, &LOG_LEVELS).map(|level| level.to_owned()))
    };
    "concurrency", "number of workers, 1 to 1024", |text, options| {
        set(&mut options.concurrency, number(text, 1, 1024))
    };
    "trace-sampling", "percent of requests, 0 to 100", |text, options| {
        set(&mut options.sampling, number(text, 0, 100))
    };
    "drain-time", "a duration in whole seconds, such as 45s or 1m30s", |text, options| {
        set(&mut options.drain_seconds, seconds(text))
    };
    "native-sidecar", "true or false", |text, options| set(&mut options.native_sidecar, boolean(text));
    "rewrite-probes", "true or false", |text, options| set(&mut options.rewrite_probes, boolean(text));
    "merge-metrics", "true or false", |text, options| set(&mut options.merge_metrics, boolean(text));
    "redirect", "redirect, tproxy or none", |text, options| {
        set(&mut options.redirect, match one_of(text, &["redirect", "tproxy", "none"])? {
            "redirect" => Ok(Redirect::Rules(redirect::Mode::Redirect)),
            "tproxy" => Ok(Redirect::Rules(redirect::Mode::Tproxy)),
            _ => Ok(Redirect::None),
        })
    };
    "outbound-policy", "allow-any or registry-only: what is not of the mesh is let through or closed", |text, options| {
        set(&mut options.outbound_policy, match one_of(text, &["allow-any", "registry-only"])? {
            "allow-any" => Ok(OutboundPolicy::AllowAny),
            _ => Ok(OutboundPolicy::RegistryOnly),
        })
    };
    "include-inbound-ports", "* or ports, such as 80,443; empty: none", |text, options| {
        set(&mut options.rules.include_inbound_ports, text.parse())
    };
    "exclude-inbound-ports", "ports", |text, options| {
        set(&mut options.rules.exclude_inbound_ports, redirect::ports(text))
    };
    "include-outbound-ports", "ports, redirected also outside of the included CIDRs", |text, options| {
        set(&mut options.rules.include_outbound_ports, redirect::ports(text))
    };
    "exclude-outbound-ports", "ports", |text, options| {
        set(&mut options.rules.exclude_outbound_ports, redirect::ports(text))
    };
    "include-outbound-cidrs", "* or CIDRs, such as 10.0.0.0/8,fd00::/8; empty: none", |text, options| {
        set(&mut options.rules.include_outbound_cidrs, text.parse())
    };
    "exclude-outbound-cidrs", "CIDRs", |text, options| {
        set(&mut options.rules.exclude_outbound_cidrs, redirect::cidrs(text))
    };
    "exclude-outbound-users", "numeric user ids whose connections are left alone", |text, options| {
        set(&mut options.rules.exclude_outbound_users, redirect::ids(text))
    };
    "exclude-outbound-groups", "numeric group ids whose connections are left alone", |text, options| {
        set(&mut options.rules.exclude_outbound_groups, redirect::ids(text))
    };
    "exclude-interfaces", "names of network interfaces", |text, options| {
        set(&mut options.rules.exclude_interfaces, redirect::interfaces(text))
    };
}

const LOG_LEVELS: [&str; 7] = [
    "trace", "debug", "info", "warning", "error", "critical", "off",
];

/// What the pod's annotations make of the defaults, or everything that is wrong with them.
pub(super) fn read(pod: &Pod<'_>, defaults: &Options) -> Result<Options, Vec<Problem>> {
    let mut options = defaults.clone();
    let mut problems = Vec::new();
    for (key, value) in pod.annotations() {
        let Some(name) = key.strip_prefix(PREFIX) else {
            problems.extend(almost_ours(key));
            continue;
        };
        if key == INJECT || key == STATUS {
            continue;
        }
        let path = format!("metadata.annotations[{key}]");
        let Some(annotation) = ANNOTATIONS.iter().find(|one| one.name == name) else {
            let names = ANNOTATIONS.iter().map(|one| one.name).chain(["inject"]);
            let hint = nearest(name, names)
                .map(|near| format!("; did you mean {PREFIX}{near}?"))
                .unwrap_or_default();
            problems.push(Problem::new(path, format!("no such annotation{hint}")));
            continue;
        };
        if let Err(message) = (annotation.apply)(value.trim(), &mut options) {
            problems.push(Problem::new(path, message));
        }
    }
    for (limit, request, of) in [
        (&options.cpu_limit, &options.cpu, "cpu"),
        (&options.memory_limit, &options.memory, "memory"),
    ] {
        if let (Some(limit_is), Some(request_is)) = (amount(limit), amount(request))
            && limit_is < request_is
        {
            problems.push(Problem::new(
                format!("metadata.annotations[{PREFIX}{of}]"),
                format!("requests {request} with a limit of {limit} ({PREFIX}{of}-limit)"),
            ));
        }
    }
    if problems.is_empty() {
        Ok(options)
    } else {
        Err(problems)
    }
}

/// `outriger.dev/cpu`: nobody else's, and without effect if nobody says so.
fn almost_ours(key: &str) -> Option<Problem> {
    let (domain, name) = key.split_once('/')?;
    let ours = PREFIX.trim_end_matches('/');
    (strsim::osa_distance(domain, ours) <= 2).then(|| {
        Problem::new(
            format!("metadata.annotations[{key}]"),
            format!("did you mean {PREFIX}{name}?"),
        )
    })
}

/// The name that was probably meant.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|one| (strsim::jaro_winkler(name, one), one))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, one)| one)
}

fn set<T>(field: &mut T, value: Result<T, String>) -> Result<(), String> {
    *field = value?;
    Ok(())
}

fn one_of<'a>(text: &str, words: &[&'a str]) -> Result<&'a str, String> {
    words
        .iter()
        .find(|word| **word == text)
        .copied()
        .ok_or_else(|| {
            let hint = nearest(text, words.iter().copied())
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            format!("`{text}` is none of {}{hint}", words.join(", "))
        })
}

fn boolean(text: &str) -> Result<bool, String> {
    one_of(text, &["true", "false"]).map(|word| word == "true")
}

fn number<T: TryFrom<u32>>(text: &str, low: u32, high: u32) -> Result<T, String> {
    text.parse::<u32>()
        .ok()
        .filter(|number| (low..=high).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("`{text}` is no whole number from {low} to {high}"))
}

fn image(text: &str) -> Result<String, String> {
    let is_fine = !text.is_empty()
        && text.starts_with(|one: char| one.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || "._-/:@+".contains(one));
    if is_fine {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no image reference"))
    }
}

/// Go's notation of durations, whole seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no duration in whole seconds, such as 45s or 1m30s");
    let mut rest = text;
    let mut total = 0_u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|one: char| !one.is_ascii_digit())
            .ok_or_else(wrong)?;
        let (count, after) = rest.split_at(digits);
        let count = count.parse::<u64>().map_err(|_| wrong())?;
        let mut units = after.chars();
        let factor = match units.next() {
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(wrong()),
        };
        rest = units.as_str();
        total = count
            .checked_mul(factor)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
    }
    if total > 86_400 {
        return Err(format!("`{text}` is longer than a day"));
    }
    Ok(total)
}

const SUFFIXES: [(&str, f64); 12] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("m", 0.001),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("", 1.0),
];

/// A quantity's amount.
fn amount(text: &str) -> Option<f64> {
    let digits = text
        .find(|one: char| !one.is_ascii_digit() && one != '.')
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(digits);
    let (_, factor) = SUFFIXES.iter().find(|(name, _)| *name == suffix)?;
    let is_number = digits.starts_with(|one: char| one.is_ascii_digit());
    Some(digits.parse::<f64>().ok().filter(|_| is_number)? * factor)
}

fn quantity(text: &str) -> Result<String, String> {
    match amount(text) {
        Some(amount) if amount > 0.0 => Ok(text.to_owned()),
        _ => Err(format!(
            "`{text}` is no quantity above 0, such as 50m or 64Mi"
        )),
    }
}
