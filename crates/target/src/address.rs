//! Which addresses requests may go to. A target whose URL is somebody else's to choose must not reach into our own
//! network (server-side request forgery): loopback, cloud metadata, internal services.
//!
//! Addresses are looked at where a connection is made: a resolver of our own passes on only those that are allowed, so
//! that what was checked is what is connected to, and hosts that are written as addresses, which no resolver is asked
//! for, are checked on the URL. Redirects are not followed anyway.

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

/// Where requests of a target may go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AddressPolicy {
    /// Anywhere: the URL is the operator's own, as those of internal services are.
    #[default]
    Any,
    /// To public addresses, and to these networks besides.
    Public {
        /// Networks that are allowed though they are not public.
        and: Vec<IpNet>,
    },
}

/// Networks that are no public destination, and what they are for (IANA's special-purpose registries, multicast), and the
/// one public address that is inside a cloud: Azure answers its machines there.
static REFUSED: &[(&str, &str)] = &[
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "a cloud's own"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("64:ff9b:1::/48", "local NAT64"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "documentation"),
    ("3fff::/20", "documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
];

static NETWORKS: LazyLock<Vec<(IpNet, &'static str)>> =
    LazyLock::new(|| REFUSED.iter().filter_map(|(net, what)| Some((net.parse().ok()?, *what))).collect());

impl AddressPolicy {
    /// What the address is, if requests may not go there.
    pub fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        let Self::Public { and } = self else { return None };
        let address = embedded_v4(address).map_or(address, IpAddr::V4);
        if and.iter().any(|network| network.contains(&address)) {
            return None;
        }
        if let Some((_, what)) = NETWORKS.iter().find(|(network, _)| network.contains(&address)) {
            return Some(what);
        }
        match address {
            IpAddr::V6(v6) if !is_global_unicast(v6) => Some("not public"),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    /// Checks a host that is written as an address, in whichever way: `url` has made it one.
    pub(crate) fn check_url(&self, url: &Url) -> Result<(), AddressRefused> {
        let address = match url.host() {
            Some(url::Host::Ipv4(v4)) => IpAddr::V4(v4),
            Some(url::Host::Ipv6(v6)) => IpAddr::V6(v6),
            Some(url::Host::Domain(_)) | None => return Ok(()),
        };
        match self.refuses(address) {
            Some(what) => Err(AddressRefused { host: None, address, what }),
            None => Ok(()),
        }
    }

    /// What resolves names for this policy; None: the system does, and all it says is good.
    pub(crate) fn resolver(&self) -> Option<Arc<dyn Resolve>> {
        match self {
            Self::Any => None,
            Self::Public { .. } => Some(Arc::new(Guard(self.clone()))),
        }
    }
}

/// `2000::/3`, the part of IPv6 that is given out to the public at all.
fn is_global_unicast(v6: Ipv6Addr) -> bool {
    v6.segments()[0] & 0xe000 == 0x2000
}

/// The IPv4 address that an IPv6 one stands for: mapped (`::ffff:0:0/96`), compatible (`::/96`), behind the well-known
/// NAT64 prefix (RFC 6052) or a 6to4 relay (RFC 3056).
fn embedded_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        // Of these, `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0] if g != 0 || h > 1 => v4(g, h),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

/// A host has no address that requests may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddressRefused {
    /// The name that was resolved; None: the URL holds the address itself.
    host: Option<String>,
    address: IpAddr,
    what: &'static str,
}

impl std::error::Error for AddressRefused {}

impl fmt::Display for AddressRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address, what } = self;
        match host {
            Some(host) => write!(f, "{host} is at {address}, which is {what}")?,
            None => write!(f, "the url's host {address} is {what}")?,
        }
        f.write_str("; requests go to public addresses only, unless allow_addresses or allow_private_addresses says otherwise")
    }
}

/// Resolves names as the system does, and leaves out what is refused.
struct Guard(AddressPolicy);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.iter().copied().filter(|address| policy.refuses(address.ip()).is_none()).collect();
            if let (true, Some(first)) = (allowed.is_empty(), found.first()) {
                let what = policy.refuses(first.ip()).unwrap_or_default();
                let host = Some(name.as_str().to_owned());
                return Err(AddressRefused { host, address: first.ip(), what }.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &AddressPolicy, address: &str, refused: Option<&str>) {
        assert_eq!(policy.refuses(address.parse().unwrap()), refused, "{address}");
    }

    #[test]
    fn every_network_of_the_table_can_be_read() {
        assert_eq!(NETWORKS.len(), REFUSED.len());
    }

    #[test]
    fn only_public_addresses_are_open_to_a_guarded_target_in_whatever_form_they_come() {
        let public = AddressPolicy::Public { and: Vec::new() };
        for (address, refused) in [
            ("0.0.0.0", "this network"),
            ("10.1.2.3", "private"),
            ("100.64.0.1", "shared by a carrier"),
            ("100.127.255.255", "shared by a carrier"),
            ("127.0.0.1", "loopback"),
            ("127.255.0.1", "loopback"),
            ("168.63.129.16", "a cloud's own"),
            ("169.254.169.254", "link-local"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("198.19.0.1", "benchmarking"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::127.0.0.1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:a9fe:a9fe", "link-local"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::a9fe:a9fe", "link-local"),
            ("64:ff9b:1::1", "local NAT64"),
            ("2002:7f00:1::", "loopback"),
            ("2001::1", "reserved"),
            ("2001:db8::1", "documentation"),
            ("fc00::1", "private"),
            ("fd12:3456::1", "private"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("100::1", "not public"),
            ("5f00::1", "not public"),
        ] {
            check(&public, address, Some(refused));
            check(&AddressPolicy::Any, address, None);
        }
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "168.63.129.17",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            check(&public, address, None);
        }
    }

    #[test]
    fn a_network_that_is_named_is_open_in_its_other_forms_too_and_no_other_is() {
        let and = vec!["10.20.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()];
        let policy = AddressPolicy::Public { and };
        for address in ["10.20.3.4", "::ffff:10.20.3.4", "fd00:1::7"] {
            check(&policy, address, None);
        }
        check(&policy, "10.21.3.4", Some("private"));
        check(&policy, "127.0.0.1", Some("loopback"));
    }

    #[test]
    fn a_host_that_is_an_address_in_disguise_is_one() {
        let public = AddressPolicy::Public { and: Vec::new() };
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "0177.0.0.1",
            "[::1]",
            "[::ffff:7f00:1]",
            "127.0.0.1.",
        ] {
            let url = Url::parse(&format!("https://{host}/hook")).unwrap();
            assert!(public.check_url(&url).is_err(), "{host}");
            assert!(AddressPolicy::Any.check_url(&url).is_ok(), "{host}");
        }
        assert!(public.check_url(&Url::parse("https://1.1.1.1/").unwrap()).is_ok());
    }
}
