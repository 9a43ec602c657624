//! A connection that is kept while the server keeps it, for many requests one after the other.

use std::io;

use fabric::net::BoxStream;

use super::{Client, Request, Response, Wire, exchange_on};

/// A client and its connection.
pub struct Line<'a> {
    /// Who signs, and where to.
    pub client: Client<'a>,
    stream: Option<BoxStream>,
}

impl<'a> Line<'a> {
    /// Not connected yet.
    pub fn new(client: Client<'a>) -> Line<'a> {
        Line { client, stream: None }
    }

    /// Connects, unless it is connected.
    pub async fn connect(&mut self) -> io::Result<()> {
        if self.stream.is_none() {
            self.stream = Some(self.client.connect().await?);
        }
        Ok(())
    }

    /// Signs and sends.
    pub async fn send(&mut self, request: Request) -> io::Result<Response> {
        let wire = self.client.sign(request);
        self.send_wire(&wire).await
    }

    /// Sends what was signed. Not for generated bodies.
    pub async fn send_wire(&mut self, wire: &Wire) -> io::Result<Response> {
        self.send_bytes(&wire.bytes(), &wire.method).await
    }

    /// Sends what was signed and put together before.
    pub async fn send_bytes(&mut self, bytes: &[u8], method: &str) -> io::Result<Response> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.client.connect().await?,
        };
        let answer = exchange_on(stream, bytes, method, false).await?;
        self.stream = (answer.sent_all && !answer.response.closes()).then_some(answer.stream);
        Ok(answer.response)
    }
}
