//! Which addresses may be dialled.
//!
//! Whoever may name a destination must not reach by it what only this host can: the metadata service
//! of a cloud, a database on loopback, a printer on the LAN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses with the same first bits: `10.0.0.0/8`, `fd00::/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    address: IpAddr,
    bits: u8,
}

impl Range {
    /// All addresses there are: for what is dialled because the configuration names it.
    pub(crate) fn everywhere() -> Vec<Self> {
        let all = [
            IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        ];
        all.map(|address| Self { address, bits: 0 }).into()
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => shares(
                u128::from(own.to_bits()) << 96,
                u128::from(other.to_bits()) << 96,
                self.bits,
            ),
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                shares(own.to_bits(), other.to_bits(), self.bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn shares(one: u128, other: u128, bits: u8) -> bool {
    bits == 0 || (one ^ other) >> (128 - u32::from(bits.min(128))) == 0
}

impl FromStr for Range {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(drop)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or(())?,
        };
        Ok(Self { address, bits })
    }
}

const DENIED_V4: [(Ipv4Addr, u8, &str); 14] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this host"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "a private network"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "a carrier's network"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "this host"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "the local link, where clouds keep their metadata"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "a private network"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documents"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "a private network"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documents"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documents"),
    // Multicast, reserved, and broadcast.
    (Ipv4Addr::new(224, 0, 0, 0), 3, "no single host"),
];

/// Of IPv6 only what is routed is good, and of that all but these.
const DENIED_V6: [(Ipv6Addr, u8, &str); 4] = [
    // Teredo among them, which carries an IPv4 address.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "reserved"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "for documents"),
    // 6to4 carries one as well.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "a relay"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "for documents"),
];

/// Says why an address may not be dialled.
pub fn judge(address: IpAddr, allow: &[Range]) -> Result<(), &'static str> {
    // An IPv4 address in the clothes of IPv6 is what it is inside.
    let address = match address {
        IpAddr::V6(v6) => inside(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    if allow.iter().any(|range| range.contains(address)) {
        return Ok(());
    }
    let denied = |own: IpAddr, bits: u8| Range { address: own, bits }.contains(address);
    let found = match address {
        IpAddr::V4(_) => {
            let found = DENIED_V4.iter().find(|(own, bits, _)| denied((*own).into(), *bits));
            found.map(|(_, _, why)| *why)
        }
        IpAddr::V6(v6) if v6.segments()[0] & 0xe000 != 0x2000 => Some("not routed"),
        IpAddr::V6(_) => {
            let found = DENIED_V6.iter().find(|(own, bits, _)| denied((*own).into(), *bits));
            found.map(|(_, _, why)| *why)
        }
    };
    found.map_or(Ok(()), Err)
}

/// The IPv4 address that an IPv6 one stands for: mapped, or behind the well-known NAT64.
fn inside(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let nat64 = Range { address: Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0).into(), bits: 96 };
    match nat64.contains(v6.into()) {
        true => Some(Ipv4Addr::from_bits(v6.to_bits() as u32)),
        false => v6.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_public_addresses_are_good() {
        for good in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert_eq!(judge(good.parse().unwrap(), &[]), Ok(()), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "100::1",
        ] {
            assert!(judge(bad.parse().unwrap(), &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_allowed_is_good_and_nothing_beside_it() {
        let allow: Vec<Range> =
            ["10.1.0.0/16", "::1", "127.0.0.1"].map(|r| r.parse().unwrap()).into();
        for good in ["10.1.2.3", "::1", "127.0.0.1", "::ffff:10.1.0.0"] {
            assert_eq!(judge(good.parse().unwrap(), &allow), Ok(()), "{good}");
        }
        for bad in ["10.2.0.0", "::2", "127.0.0.2"] {
            assert!(judge(bad.parse().unwrap(), &allow).is_err(), "{bad}");
        }
        for wrong in ["10.0.0.0/33", "10.0.0/8", "::/129", "host", "", "10.0.0.0/", "1.1.1.1/-1"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
        assert!("0.0.0.0/0".parse::<Range>().unwrap().contains("9.9.9.9".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn no_clothes_hide_an_address(bits: u32) {
            let plain = Ipv4Addr::from_bits(bits);
            let told = judge(plain.into(), &[]);
            prop_assert_eq!(judge(plain.to_ipv6_mapped().into(), &[]), told);
            let nat64 = Ipv6Addr::from_bits((0x64_ff9b_u128 << 96) | u128::from(bits));
            prop_assert_eq!(judge(nat64.into(), &[]), told);
            prop_assert!(judge(plain.to_ipv6_compatible().into(), &[]).is_err());
        }
    }
}
