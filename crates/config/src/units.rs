//! Durations, sizes, addresses and lists as they stand in the file; each module is for `#[serde(with = ...)]`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `"500ms"`, `"10s"`, `"15m"`, `"24h"`.
pub(crate) mod duration {
    use std::time::Duration;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        scalar(deserializer, "a duration", parse)
    }

    pub(super) fn parse(text: &str) -> Result<Duration, String> {
        const EXPECTED: &str =
            "expected a number with a unit, such as \"500ms\", \"10s\", \"15m\" or \"24h\"";
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("`{text}` has no unit; {EXPECTED} (\"{text}s\" for seconds)"));
        }
        humantime::parse_duration(text).map_err(|_| format!("\"{text}\" is not a duration; {EXPECTED}"))
    }
}

/// The same, or `"off"` or `0` for none.
pub(crate) mod duration_or_off {
    use std::time::Duration;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => duration::serialize(value, serializer),
            None => serializer.serialize_str("off"),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        scalar(deserializer, "a duration, or \"off\"", |text| match text {
            "off" | "0" => Ok(None),
            text => duration::parse(text).map(|time| Some(time).filter(|time| !time.is_zero())),
        })
    }
}

/// `["1s", "2s"]`.
pub(crate) mod durations {
    use std::time::Duration;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct One(#[serde(with = "duration")] Duration);

    pub(crate) fn serialize<S: Serializer>(values: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().copied().map(One))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<One>::deserialize(deserializer)?.into_iter().map(|one| one.0).collect())
    }
}

/// `262144`, `"256KiB"`, `"8MiB"`, `"1GiB"`; `kB`, `MB` and `GB` count in thousands.
pub(crate) mod bytes {
    use super::*;

    pub(crate) fn serialize<S: Serializer, N: Serialize>(
        value: &N,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D, N>(deserializer: D) -> Result<N, D::Error>
    where
        D: Deserializer<'de>,
        N: TryFrom<u64>,
    {
        scalar(deserializer, "a size", |text| {
            let bytes = parse(text)?;
            N::try_from(bytes).map_err(|_| format!("{bytes} bytes are more than this machine can count"))
        })
    }

    fn parse(text: &str) -> Result<u64, String> {
        let refused = || {
            format!(
                "\"{text}\" is not a size; expected bytes as a number, or a number with a unit, \
                 such as \"256KiB\", \"8MiB\" or \"1GiB\""
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit: u64 = match unit.trim_start() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err(refused()),
        };
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(refused)
    }
}

/// `"127.0.0.1:9464"`.
pub(crate) mod listen {
    use std::net::SocketAddr;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        scalar(deserializer, "an address", parse)
    }

    pub(super) fn parse(text: &str) -> Result<SocketAddr, String> {
        text.parse().map_err(|_| {
            format!(
                "\"{text}\" is not an address; expected an IP address and a port, \
                 such as \"127.0.0.1:8080\" or \"0.0.0.0:8080\" (port 0 takes any free one)"
            )
        })
    }
}

/// The same, or `""` for none.
pub(crate) mod listen_optional {
    use std::net::SocketAddr;

    use super::*;

    pub(crate) fn serialize<S>(value: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        value.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D>(deserializer: D) -> Result<Option<SocketAddr>, D::Error>
    where
        D: Deserializer<'de>,
    {
        scalar(deserializer, "an address", |text| match text {
            "" => Ok(None),
            text => listen::parse(text).map(Some),
        })
    }
}

/// A list whose empty strings are left out, so that `["${SECRET:-}"]` is an empty one.
pub(crate) mod list {
    use super::*;

    pub(crate) fn serialize<S: Serializer, C: Serialize>(
        value: &C,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D, C, T>(deserializer: D) -> Result<C, D::Error>
    where
        D: Deserializer<'de>,
        C: IntoIterator<Item = T> + FromIterator<T>,
        T: DeserializeOwned,
    {
        // An optional reads an empty string as none.
        Ok(Vec::<Option<T>>::deserialize(deserializer)?.into_iter().flatten().collect())
    }
}

/// Reads a string or a whole number as text and hands it to `parse`, whose error becomes the key's.
fn scalar<'de, D, T, P>(deserializer: D, expected: &'static str, parse: P) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    P: FnOnce(&str) -> Result<T, String>,
{
    struct Scalar<T, P>(&'static str, P, PhantomData<T>);

    impl<T, P: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Scalar<T, P> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text.trim()).map_err(E::custom)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
            (self.1)(&number.to_string()).map_err(E::custom)
        }
    }

    deserializer.deserialize_any(Scalar(expected, parse, PhantomData))
}
