//! A second host: a network of its own, at the other end of a cable.
//!
//! Only inside of the namespaces that [`super::inside`] makes, with which all of it ends, also when
//! the test fails.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::run;

/// This host's address, and the other one's.
const HERE: &str = "10.77.0.1";
const THERE: &str = "10.77.0.2";
/// The ends of the cable.
const NEAR: &str = "near";
const FAR: &str = "far";

/// Which way nothing comes through any more. Nobody is told: packets are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Both,
    /// What goes there.
    Up,
    /// What comes from there.
    Down,
}

/// The cable, and the host at its other end.
#[derive(Debug)]
pub struct Link {
    /// A process that does nothing there, so that the network stays.
    holder: Child,
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    /// # Panics
    /// If there is no `ip` (iproute2) or `iptables`, or this is not inside.
    pub fn new() -> Self {
        let mut there = Command::new("unshare");
        // Says so once it is there.
        there.args(["--net", "sh", "-c", "echo there; exec sleep 1000000"]);
        let mut holder =
            there.stdout(Stdio::piped()).spawn().expect("unshare is installed (util-linux)");
        let mut said = [0; 6];
        let stdout = holder.stdout.as_mut().expect("it is piped");
        std::io::Read::read_exact(stdout, &mut said).expect("another network can be made");
        let link = Self { holder };
        let pid = link.holder.id().to_string();
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", &pid]);
        run("ip", &["address", "add", &format!("{HERE}/24"), "dev", NEAR]);
        run("ip", &["link", "set", NEAR, "up"]);
        let far = ["--target", &pid, "--net", "ip"];
        for rest in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", &format!("{THERE}/24"), "dev", FAR],
            &["link", "set", FAR, "up"],
        ] {
            run("nsenter", &[&far[..], rest].concat());
        }
        link
    }

    /// The other host's address.
    pub fn there(&self) -> &'static str {
        THERE
    }

    /// Listens on the other host.
    ///
    /// # Panics
    /// If that port is not free.
    pub fn listen(&self, port: u16) -> TcpListener {
        let network = File::open(format!("/proc/{}/ns/net", self.holder.id()));
        let network = network.expect("the other network is there");
        // A socket stays in the network where it was made; only this thread goes there.
        let listening = std::thread::spawn(move || {
            use std::os::fd::AsFd;
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("the other network can be entered");
            let at: SocketAddr = format!("{THERE}:{port}").parse().expect("an address");
            TcpListener::bind(at).expect("the port is free there")
        });
        listening.join().expect("it listens")
    }

    /// From now on nothing comes through that way.
    pub fn cut(&self, cut: Cut) {
        self.heal();
        if cut != Cut::Down {
            run("iptables", &["-A", "OUTPUT", "-o", NEAR, "-j", "DROP"]);
        }
        if cut != Cut::Up {
            run("iptables", &["-A", "INPUT", "-i", NEAR, "-j", "DROP"]);
        }
    }

    /// Everything comes through again.
    pub fn heal(&self) {
        run("iptables", &["-F"]);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // It ends with the namespaces at the latest.
        self.holder.kill().and_then(|()| self.holder.wait()).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::netns::inside;
    use crate::world::until;

    /// Whether a byte makes its way there and back.
    fn echoes(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").and_then(|()| stream.read_exact(&mut byte)).is_ok()
    }

    #[test]
    fn a_link_carries_until_it_is_cut_and_again_when_it_is_healed() {
        inside(
            "netns::link::tests::a_link_carries_until_it_is_cut_and_again_when_it_is_healed",
            || {
                let link = Link::new();
                let listener = link.listen(7);
                let connect = || {
                    let at: SocketAddr = format!("{THERE}:7").parse().unwrap();
                    let mut near =
                        TcpStream::connect_timeout(&at, Duration::from_secs(20)).unwrap();
                    near.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                    let (mut far, _) = listener.accept().unwrap();
                    std::thread::spawn(move || {
                        let mut byte = [0];
                        while far.read_exact(&mut byte).and_then(|()| far.write_all(&byte)).is_ok()
                        {
                        }
                    });
                    assert!(echoes(&mut near), "it carries");
                    near
                };
                for cut in [Cut::Both, Cut::Up, Cut::Down] {
                    let mut near = connect();
                    link.cut(cut);
                    assert!(!echoes(&mut near), "{cut:?}: something comes through");
                    link.heal();
                    // What was lost is sent again, and the connection is the same one.
                    until("it carries again", || {
                        near.read(&mut [0]).map(|read| assert_eq!(read, 1))
                    });
                }
            },
        );
    }
}
