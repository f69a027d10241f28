//! Which addresses the operator connects to for a source.
//!
//! Whoever may write a source chooses where the operator connects to, and the operator stands inside of the cluster: it reaches what
//! the writer may not. So an address is judged where the connection is made, after every name is resolved.

// The values only; sockets are std's.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use ipnet::IpNet;

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zone {
    /// Out into the internet.
    Public,
    /// This machine, the cluster, a network of its owner; and whatever is not known to be public.
    Private,
    /// The link of this node and the metadata that clouds serve there (credentials among them), everybody, nobody.
    Link,
}

/// Where clouds serve metadata besides 169.254.0.0/16: Alibaba, Oracle, Azure, AWS, Google.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

impl Zone {
    fn of(address: IpAddr) -> Self {
        if METADATA.contains(&address) {
            return Self::Link;
        }
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            [0 | 224..=239, ..] | [169, 254, ..] | [255, 255, 255, 255] => Self::Link,
            [10 | 127 | 240.., ..]
            | [100, 64..=127, ..]
            | [172, 16..=31, ..]
            | [192, 168, ..]
            // For protocols, documentation and benchmarks; 240/4 is for later.
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _] => Self::Private,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        match address.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0] | [0xfe80..=0xfebf | 0xff00..=0xffff, ..] => Self::Link,
            // For protocols (Teredo and others) and documentation.
            [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Self::Private,
            [0x2000..=0x3fff, ..] => Self::Public,
            _ => Self::Private,
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped or compatible, by NAT64, by 6to4. Every other stands for itself.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(whole) = address else { return address };
    let (high, low) = match whole.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => (high, low),
        _ => return address,
    };
    IpAddr::V4(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)))
}

/// Hosts that are not public, and that sources of every namespace may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivateHosts {
    /// In lower case, as they stand in URLs.
    names: BTreeSet<String>,
    ranges: BTreeSet<IpNet>,
}

/// Why a text is no list of hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{entry:?} is no host: {why}; expected a name (git.example), an address (10.1.2.3) or a range of addresses (10.0.0.0/8)"
)]
pub struct InvalidHost {
    entry: String,
    why: String,
}

impl FromStr for PrivateHosts {
    type Err = InvalidHost;

    /// Reads a list with commas.
    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let mut hosts = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let invalid = |why: String| InvalidHost { entry: entry.to_owned(), why };
            if let Some(range) = range(entry).map_err(invalid)? {
                hosts.ranges.insert(range);
            } else {
                hosts.names.insert(name(entry).map_err(|why| invalid(why.to_owned()))?);
            }
        }
        Ok(hosts)
    }
}

fn name(entry: &str) -> Result<String, &'static str> {
    if entry.contains("://") || entry.contains(['/', '@']) {
        return Err("it is a URL; leave all but the host away");
    }
    if entry.contains(':') {
        return Err("a host counts for all its ports; leave the port away");
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !entry.bytes().all(plain) {
        return Err(
            "names consist of letters, digits, '.', '_' and '-', without patterns; other letters in their xn-- form",
        );
    }
    Ok(normal(entry))
}

/// As names are compared.
fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Reads an address or a range; `None` where it is neither.
fn range(entry: &str) -> Result<Option<IpNet>, String> {
    let (first, bits) = entry.split_once('/').map_or((entry, None), |(first, bits)| (first, Some(bits)));
    let Ok(first) = first.parse::<IpAddr>() else { return Ok(None) };
    let Some(bits) = bits else { return Ok(Some(first.into())) };
    let width = IpNet::from(first).max_prefix_len();
    let range = bits.parse().ok().and_then(|bits| IpNet::new(first, bits).ok());
    let range = range.ok_or_else(|| format!("behind the '/' stands a number up to {width}"))?;
    if range.trunc() != range {
        return Err(format!("the range of this address begins at {}", range.trunc()));
    }
    Ok(Some(range))
}

/// Where the operator connects to for one source.
#[derive(Clone, Debug)]
pub struct Destinations {
    /// Whether the source stands in the root namespace.
    root: bool,
    listed: Arc<PrivateHosts>,
}

/// Why an address is not connected to: what is told of it behind "it is at this address, which …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is not public, and the source a tenant's.
    Private,
    /// It belongs to nobody's git server.
    Link,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => {
                "which is not public: a source outside of the operator's namespace reaches it only if whoever runs the operator lists \
                 the host or the address in --private-git-hosts"
            }
            Self::Link => {
                "which is link-local, for metadata of a cloud, or no host's: a source reaches it only if whoever runs the operator lists \
                 that very address in --private-git-hosts"
            }
        })
    }
}

impl Destinations {
    /// Those of a source of the root namespace, or of a tenant's.
    pub fn new(root: bool, listed: Arc<PrivateHosts>) -> Self {
        Self { root, listed }
    }

    /// Whether to connect to an address, to which `host` of the source's URL was resolved. A listed name opens what is private, but
    /// not what only its own address opens: names are resolved by whoever owns them.
    pub fn allow(&self, host: &str, address: IpAddr) -> Result<(), Denied> {
        let meant = meant(address);
        let listed = |range: &&IpNet| range.contains(&address) || range.contains(&meant);
        let mut ranges = self.listed.ranges.iter();
        match Zone::of(meant) {
            Zone::Public => Ok(()),
            Zone::Private if self.root || self.listed.names.contains(&normal(host)) => Ok(()),
            Zone::Private => ranges.find(listed).map(drop).ok_or(Denied::Private),
            Zone::Link => ranges
                .filter(|range| range.prefix_len() == range.max_prefix_len())
                .find(listed)
                .map(drop)
                .ok_or(Denied::Link),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &[&str] = &[
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1",
        "2a00::1",
        "2001:200::1",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
        "2002:101:101::1",
    ];
    const PRIVATE: &[&str] = &[
        "10.0.0.0",
        "10.255.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "100.64.0.0",
        "100.127.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "192.168.0.0",
        "192.168.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "240.0.0.1",
        "::1",
        "fc00::",
        "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "fec0::1",
        "2001:db8::1",
        "2001::1",
        "3fff::1",
        "100::1",
        "4000::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "::10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "2002:a00:1::1",
    ];
    const LINK: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::",
        "fe80::1",
        "febf::1",
        "ff02::1",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
    ];

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn destinations(root: bool, listed: &str) -> Destinations {
        Destinations::new(root, Arc::new(listed.parse().unwrap()))
    }

    /// If this fails, whoever may write a source reads the cloud's credentials, or reaches what only the operator should.
    #[test]
    fn tenants_reach_what_is_public_the_root_also_what_is_private_and_nobody_the_link() {
        let (root, tenant) = (destinations(true, ""), destinations(false, ""));
        for (addresses, as_root, as_tenant) in [
            (PUBLIC, Ok(()), Ok(())),
            (PRIVATE, Ok(()), Err(Denied::Private)),
            (LINK, Err(Denied::Link), Err(Denied::Link)),
        ] {
            for text in addresses {
                assert_eq!(root.allow("git.example", address(text)), as_root, "{text}");
                assert_eq!(tenant.allow("git.example", address(text)), as_tenant, "{text}");
            }
        }
    }

    /// If this fails, the list of the operator's owner opens more than it says, or not what it says.
    #[test]
    fn what_is_listed_is_opened_and_nothing_else() {
        let listed = "git.inside, 10.1.0.0/16,fd00:1::/32 ,192.168.7.7,169.254.7.7,100.100.100.200/32";
        let tenant = destinations(false, listed);
        for (host, at, allowed) in [
            ("git.inside", "10.9.0.1", Ok(())),
            ("GIT.Inside.", "127.0.0.1", Ok(())),
            ("git.inside", "fd00:2::1", Ok(())),
            ("a.git.inside", "10.9.0.1", Err(Denied::Private)),
            ("git.inside.example", "10.9.0.1", Err(Denied::Private)),
            ("other", "10.1.255.255", Ok(())),
            ("other", "::ffff:10.1.0.1", Ok(())),
            ("other", "64:ff9b::10.1.0.1", Ok(())),
            ("other", "10.2.0.0", Err(Denied::Private)),
            ("other", "10.0.255.255", Err(Denied::Private)),
            ("other", "fd00:1:ffff::1", Ok(())),
            ("other", "fd00:2::1", Err(Denied::Private)),
            ("other", "192.168.7.7", Ok(())),
            ("other", "192.168.7.8", Err(Denied::Private)),
            // Whoever owns a name may have it lead there.
            ("git.inside", "169.254.169.254", Err(Denied::Link)),
            ("other", "169.254.7.7", Ok(())),
            ("other", "100.100.100.200", Ok(())),
            ("other", "169.254.7.8", Err(Denied::Link)),
        ] {
            assert_eq!(tenant.allow(host, address(at)), allowed, "{host} at {at}");
        }
        // Who opens everything thinks of servers, not of the cloud's credentials.
        for everything in ["0.0.0.0/0,::/0", "169.254.0.0/16,fe80::/10,fd00::/8,100.64.0.0/10,224.0.0.0/4"] {
            for root in [true, false] {
                let open = destinations(root, everything);
                assert_eq!(open.allow("x", address("169.254.169.254")), Err(Denied::Link));
                assert_eq!(open.allow("x", address("100.64.0.1")), Ok(()));
                assert_eq!(open.allow("x", address("fd00::1")), Ok(()));
            }
        }
        assert_eq!(destinations(true, "169.254.7.7").allow("x", address("169.254.7.7")), Ok(()));
    }

    #[test]
    fn what_is_no_host_is_refused_with_what_to_write() {
        let refused =
            |entry: &str| format!("git.example,{entry}").parse::<PrivateHosts>().unwrap_err().to_string();
        for (entry, says) in [
            ("10.0.0.1/8", "begins at 10.0.0.0/8"),
            ("fd00::1/64", "begins at fd00::/64"),
            ("10.0.0.0/33", "up to 32"),
            ("fd00::/129", "up to 128"),
            ("10.0.0.0/", "up to 32"),
            ("10.0.0.0/x", "up to 32"),
            ("git.example:3000", "leave the port away"),
            ("10.0.0.1:3000", "leave the port away"),
            ("https://git.example", "leave all but the host away"),
            ("git.example/shop", "leave all but the host away"),
            ("*.git.example", "without patterns"),
            ("gít.example", "xn--"),
            ("[::1]", "leave the port away"),
        ] {
            let told = refused(entry);
            assert!(
                told.contains(says) && told.contains(entry) && told.contains("10.0.0.0/8"),
                "{entry}: {told}"
            );
        }
        assert_eq!("".parse(), Ok(PrivateHosts::default()));
        assert_eq!(" , ".parse(), Ok(PrivateHosts::default()));
        assert!("0.0.0.0/0".parse::<PrivateHosts>().is_ok());
    }
}
