//! The network between nodes, without nodes: what it is told to lose is lost, what it is told to
//! delay is late, and everything else arrives.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use muster_chaos::cluster::Network;
use muster_chaos::cluster::network::{CLIENTS, Link, Trouble, unfit};

/// Longer than anything here takes, unless it takes for ever.
const LONG: Duration = Duration::from_secs(20);
/// How long to listen for what must not come. What comes takes less than a millisecond.
const SILENCE: Duration = Duration::from_millis(200);
const THERE: Link = Link { from: 1, to: 2 };
const BACK: Link = Link { from: 2, to: 1 };

/// `None`, with a word on stderr, where there can be no such network.
fn network(nodes: u64) -> Option<Network> {
    if let Some(reason) = unfit() {
        eprintln!("skipped: {reason}");
        return None;
    }
    Some(Network::start(nodes).unwrap())
}

/// A socket where a node lives.
fn socket(network: &Network, station: u64) -> UdpSocket {
    let bind = || UdpSocket::bind((network.address(station), 0)).unwrap();
    if station == CLIENTS { bind() } else { network.inside(station, bind).unwrap() }
}

/// Sends one packet that must arrive and answers how long it took.
fn send(from: &UdpSocket, to: &UdpSocket) -> Duration {
    to.set_read_timeout(Some(LONG)).unwrap();
    let sent = Instant::now();
    from.send_to(b"x", to.local_addr().unwrap()).unwrap();
    let (_, sender) = to.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(sender, from.local_addr().unwrap());
    sent.elapsed()
}

/// Sends one packet that must not arrive.
fn send_in_vain(from: &UdpSocket, to: &UdpSocket) {
    to.set_read_timeout(Some(SILENCE)).unwrap();
    from.send_to(b"x", to.local_addr().unwrap()).unwrap();
    let error = to.recv_from(&mut [0; 8]).expect_err("a packet has passed");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
}

#[test]
fn everything_passes_until_a_cut_and_after_it() {
    let Some(network) = network(3) else { return };
    let [clients, one, two, three] = [CLIENTS, 1, 2, 3].map(|station| socket(&network, station));
    let pairs =
        [(&one, &two), (&two, &one), (&one, &three), (&clients, &one), (&one, &clients), (&one, &one)];
    let pass = |arrive: [bool; 6]| {
        for ((from, to), arrives) in pairs.iter().zip(arrive) {
            if arrives {
                send(from, to);
            } else {
                send_in_vain(from, to);
            }
        }
    };
    pass([true; 6]);
    {
        let cut = network.cut(1, 2);
        pass([false, false, true, true, true, true]);
        assert_eq!(cut.touched().into_iter().collect::<Vec<_>>(), [(THERE, 1), (BACK, 1)]);
    }
    {
        let _alone = network.isolate(1);
        pass([false, false, false, true, true, true]);
    }
    {
        let _one_way = network.impose(Trouble::Cut, [THERE], 0);
        pass([false, true, true, true, true, true]);
    }
    {
        let _clients = network.cut(CLIENTS, 1);
        pass([true, true, true, false, false, true]);
    }
    pass([true; 6]);
}

#[test]
fn packets_are_lost_and_late_as_told() {
    let Some(network) = network(2) else { return };
    let (one, two) = (socket(&network, 1), socket(&network, 2));
    let lossy = network.impose(Trouble::Lose { percent: 25 }, [THERE], 3);
    let packets: u64 = 2_000;
    for _ in 0..packets {
        one.send_to(b"x", two.local_addr().unwrap()).unwrap();
    }
    let began = Instant::now();
    let passed = || network.delivered(THERE);
    while passed() + lossy.touched()[&THERE] < packets {
        assert!(began.elapsed() < LONG, "{} passed, {:?} lost", passed(), lossy.touched());
        std::thread::yield_now();
    }
    let lost = lossy.touched()[&THERE];
    assert!((400..600).contains(&lost), "{lost} of {packets} lost");
    drop(lossy);

    // Another socket: what the first was sent may still arrive.
    let two = socket(&network, 2);
    let (least, most) = (Duration::from_millis(40), Duration::from_millis(80));
    let delay = network.impose(Trouble::Delay { least, most }, [THERE], 3);
    for _ in 0..5 {
        let took = send(&one, &two);
        assert!(took >= least, "{took:?}");
    }
    assert_eq!(delay.touched()[&THERE], 5);
    drop(delay);
    // One of them, on a busy machine; while all are late none.
    assert!((0..100).any(|_| send(&one, &two) < least));
}

/// TCP sits a cut out, if it is short: nothing that was sent is lost, and nobody is told.
#[test]
fn a_connection_waits_for_a_cut_to_end() {
    let Some(network) = network(2) else { return };
    let (mut client, mut server) = connection(&network);
    client.write_all(b"a").unwrap();
    server.read_exact(&mut [0]).unwrap();
    let cut = network.cut(1, 2);
    client.write_all(b"b").unwrap();
    server.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(server.read(&mut [0]).is_err(), "nothing arrives");
    drop(cut);
    server.set_read_timeout(Some(LONG)).unwrap();
    let mut late = [0];
    server.read_exact(&mut late).unwrap();
    assert_eq!(&late, b"b");
}

/// Two clusters under load send some thousand packets a second.
#[test]
fn the_switch_is_no_bottleneck() {
    const BYTES: usize = 50_000_000;
    let Some(network) = network(2) else { return };
    let (mut client, mut server) = connection(&network);
    let began = Instant::now();
    let writer = std::thread::spawn(move || client.write_all(&vec![7; BYTES]));
    let mut received = Vec::with_capacity(BYTES);
    server.read_to_end(&mut received).unwrap();
    writer.join().unwrap().unwrap();
    assert!(received == vec![7; BYTES], "{} bytes, or others", received.len());
    let packets = network.delivered(THERE) + network.delivered(BACK);
    let rate = packets as f64 / began.elapsed().as_secs_f64();
    eprintln!("{packets} packets, {rate:.0} a second");
    // Far below what it does: a busy machine must not fail it.
    assert!(rate > 500.0, "{rate:.0} packets a second");
}

/// Networks do not know of each other, and nothing of one is left behind.
#[test]
fn two_networks_live_side_by_side_and_leave_nothing() {
    let (Some(a), Some(b)) = (network(2), network(2)) else { return };
    assert_ne!(a.address(1), b.address(1));
    send(&socket(&a, 1), &socket(&a, 2));
    send(&socket(&b, 1), &socket(&b, 2));
    // Both are this process's own.
    send(&socket(&b, CLIENTS), &socket(&a, CLIENTS));
    let address = SocketAddr::from((a.address(CLIENTS), 0));
    drop(a);
    let error = UdpSocket::bind(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable, "the device is gone");
}

/// A connection from node 1 to node 2.
fn connection(network: &Network) -> (TcpStream, TcpStream) {
    let listener = network.inside(2, || TcpListener::bind((network.address(2), 0)).unwrap()).unwrap();
    let at = listener.local_addr().unwrap();
    let client = network.inside(1, || TcpStream::connect_timeout(&at, LONG).unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    (client, server)
}
