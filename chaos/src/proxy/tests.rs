use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);
/// Long enough for bytes to cross loopback, were they let through.
const A_WHILE: Duration = Duration::from_millis(150);

/// A link to a server that sends back whatever it gets.
async fn link_to_echo() -> Link {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reads, mut writes) = stream.split();
                tokio::io::copy(&mut reads, &mut writes).await.ok();
                writes.shutdown().await.ok();
            });
        }
    });
    Link::open("echo", address, None).await.unwrap()
}

async fn client(link: &Link) -> TcpStream {
    TcpStream::connect(link.address()).await.unwrap()
}

async fn hears(client: &mut TcpStream, within: Duration) -> Option<std::io::Result<u8>> {
    timeout(within, client.read_u8()).await.ok()
}

async fn echoes(client: &mut TcpStream) {
    client.write_u8(7).await.unwrap();
    assert_eq!(hears(client, SOON).await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn bytes_wait_in_a_stalled_direction_and_go_on_after_it() {
    for way in [Way::Up, Way::Down] {
        let link = link_to_echo().await;
        let mut client = client(&link).await;
        echoes(&mut client).await;
        link.set_flow(way, Flow::Stalled);
        client.write_u8(8).await.unwrap();
        assert!(hears(&mut client, A_WHILE).await.is_none(), "{way:?}");
        link.set_flow(way, Flow::Free);
        assert_eq!(hears(&mut client, SOON).await.unwrap().unwrap(), 8, "{way:?}");
    }
}

#[tokio::test]
async fn a_stranded_connection_stands_still_while_a_new_one_passes() {
    let link = link_to_echo().await;
    let mut old = client(&link).await;
    echoes(&mut old).await;
    link.strand(Way::Up);
    old.write_u8(9).await.unwrap();
    assert!(hears(&mut old, A_WHILE).await.is_none());
    echoes(&mut client(&link).await).await;
    link.set_flow(Way::Up, Flow::Free);
    assert_eq!(hears(&mut old, SOON).await.unwrap().unwrap(), 9);
}

#[tokio::test]
async fn a_cut_ends_what_there_is_and_nothing_new() {
    let link = link_to_echo().await;
    let mut old = client(&link).await;
    echoes(&mut old).await;
    link.cut();
    assert!(hears(&mut old, SOON).await.unwrap().is_err());
    echoes(&mut client(&link).await).await;
}

#[tokio::test]
async fn a_refused_client_gets_nothing() {
    let link = link_to_echo().await;
    link.refuse(true);
    assert!(hears(&mut client(&link).await, SOON).await.unwrap().is_err());
    link.calm();
    echoes(&mut client(&link).await).await;
}

#[tokio::test]
async fn a_half_closed_connection_still_hears_or_still_speaks() {
    let link = link_to_echo().await;
    let mut client = client(&link).await;
    echoes(&mut client).await;
    link.half_close(Way::Down);
    // The end of the stream, in order.
    let ended = hears(&mut client, SOON).await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::UnexpectedEof);
    client.write_u8(1).await.unwrap();
}

#[tokio::test]
async fn what_was_sent_arrives_though_its_sender_has_gone() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let link = Link::open("sink", listener.local_addr().unwrap(), None).await.unwrap();
    link.set_flow(Way::Up, Flow::Stalled);
    let mut client = client(&link).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut server, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    link.calm();
    let mut heard = Vec::new();
    timeout(SOON, server.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, b"last words");
    drop(client);
}
