//! Proxies in front of a gateway: whose word is taken for the address of a client.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use super::policy::Network;

/// Networks of proxies that are trusted; without any nobody's word is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<Network>);

impl Proxies {
    /// Reads addresses and networks such as `203.0.113.0/24`; the error is the text that is neither.
    pub fn parse(texts: &[String]) -> Result<Proxies, String> {
        let network = |text: &String| Network::parse(text).ok_or_else(|| text.clone());
        texts.iter().map(network).collect::<Result<_, _>>().map(Proxies)
    }

    /// Who sent a request that `peer` handed over: each proxy appended to `X-Forwarded-For` whom it heard, so the last
    /// address there that is not a trusted proxy's is the client.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let values = headers.get_all("x-forwarded-for").iter().rev();
        let mut heard = values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.rsplit(','));
        while self.0.iter().any(|network| network.contains(client)) {
            match heard.next().and_then(|text| address(text.trim())) {
                Some(address) => client = address,
                None => break,
            }
        }
        client
    }
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_that_is_no_proxys_is_the_client() {
        let texts = ["10.0.0.0/8".to_string(), "2001:db8::7".to_string()];
        let proxies = Proxies::parse(&texts).unwrap();
        for (peer, heard, client) in [
            ("198.51.100.1", &["203.0.113.9"][..], "198.51.100.1"),
            ("10.1.1.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.1.1.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.1.1.1", &["1.1.1.1, 203.0.113.9, 10.2.2.2"], "203.0.113.9"),
            ("10.1.1.1", &["203.0.113.9", "10.2.2.2 , [2001:db8::7]:80"], "203.0.113.9"),
            ("10.1.1.1", &["1.1.1.1, unknown, 10.2.2.2"], "10.2.2.2"),
            ("10.1.1.1", &[], "10.1.1.1"),
        ] {
            let headers = heard
                .iter()
                .map(|text| ("x-forwarded-for".parse().unwrap(), text.parse().unwrap()))
                .collect();
            assert_eq!(proxies.client(peer.parse().unwrap(), &headers).to_string(), client, "{heard:?}");
        }
        let headers: HeaderMap =
            [("x-forwarded-for".parse().unwrap(), "1.1.1.1".parse().unwrap())].into_iter().collect();
        let nobody = Proxies::default();
        assert_eq!(nobody.client("10.1.1.1".parse().unwrap(), &headers).to_string(), "10.1.1.1");
        assert_eq!(Proxies::parse(&["10.0.0.0/33".to_string()]).unwrap_err(), "10.0.0.0/33");
    }
}
