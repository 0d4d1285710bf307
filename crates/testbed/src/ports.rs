//! Free loopback ports.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use anyhow::{Context, Result};

/// PostgreSQL, RabbitMQ (AMQP, TLS, management, distribution) and epmd: left to those who expect them there.
const WELL_KNOWN: [u16; 6] = [4369, 5432, 5671, 5672, 15672, 25672];

/// Picks `N` different ports on which nothing listens on loopback now.
///
/// They lie below the kernel's ephemeral range where there is room: a client that keeps connecting to a killed server's
/// ephemeral port can be given that very port as its own, connect to itself, and keep the server from coming back.
///
/// Another process can still take a port before its server does; the server's start then picks again.
pub(crate) fn free<const N: usize>() -> Result<[u16; N]> {
    let range = below_ephemeral();
    let mut held: Vec<TcpListener> = Vec::with_capacity(N);
    for _ in 0..1000 {
        if held.len() == N {
            break;
        }
        let port = range.clone().map_or(0, rand::random_range);
        if !WELL_KNOWN.contains(&port)
            && let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        {
            held.push(listener);
        }
    }
    let ports: Vec<u16> =
        held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<_>>()?;
    ports.try_into().ok().context("no free loopback ports")
}

fn below_ephemeral() -> Option<Range<u16>> {
    const LOWEST: u16 = 15_000;
    let ephemeral = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let first: u16 = ephemeral.split_whitespace().next()?.parse().ok()?;
    (first >= LOWEST + 2_000).then_some(LOWEST..first)
}
