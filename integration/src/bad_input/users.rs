//! Users that are refused: without a secret, and after they were removed.

use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;

use crate::client::{Auth, Client, Credentials, Request, Response, Target};
use crate::daemons::UserCommands;

/// A removed key is dead on every gateway this long after the removal was acknowledged.
const REVOCATION_DEADLINE: Duration = Duration::from_secs(5);
const KEY: (&str, &str) = ("FLUFFYREVOKEDKEY0001", "revoked-secret-0123456789abcdef01234567");

/// Runs the cases; `report` hears of each.
pub async fn run(
    target: &dyn Target,
    commands: &UserCommands,
    mut report: impl FnMut(&str, Result<(), String>),
) -> Result<()> {
    for (name, secret) in
        [("an empty secret", ""), ("a short secret", "0123456789abcde"), ("blanks", "0123456789 abcdef")]
    {
        let outcome = refused(target, commands, secret).await;
        report(&format!("H018 users: {name} is refused and makes no user"), outcome);
    }
    for (id, name, auth, how) in [
        ("H019", "a removed user", Auth::Header, "remove"),
        ("H019", "a rotated key", Auth::Header, "rotate"),
        ("H042", "a presigned URL of a removed user", Auth::Query(600), "remove"),
        ("H042", "a presigned URL of a rotated key", Auth::Query(600), "rotate"),
    ] {
        report(
            &format!("{id} users: {name} is refused everywhere"),
            revoked(target, commands, auth, how).await,
        );
    }
    Ok(())
}

/// The command fails, and the key that came with it opens nothing.
async fn refused(target: &dyn Target, commands: &UserCommands, secret: &str) -> Result<(), String> {
    let said = commands.run(&["add", "nobody", "--access-key", KEY.0, "--secret-key", secret])?;
    if said.code == 0 || !said.error.contains("a secret ") {
        return Err(format!("exit code {}: {}", said.code, said.error));
    }
    let credentials = Credentials::new(KEY.0, secret);
    let client = Client::new(target, 0).with_credentials(Some(credentials));
    dead(&client.send(buckets(Auth::Header)).await.map_err(|error| error.to_string())?)
}

fn buckets(auth: Auth) -> Request {
    Request::new("GET", "/").auth(auth)
}

fn dead(response: &Response) -> Result<(), String> {
    match (response.status, response.code().as_str()) {
        (403, "InvalidAccessKeyId") => Ok(()),
        _ => Err(response.describe()),
    }
}

/// A key that works on every gateway works on none once it is taken away.
async fn revoked(target: &dyn Target, commands: &UserCommands, auth: Auth, how: &str) -> Result<(), String> {
    commands.ok(&["add", "revoked", "--access-key", KEY.0, "--secret-key", KEY.1])?;
    let clients: Vec<Client<'_>> = (0..target.gateways())
        .map(|gateway| Client::new(target, gateway).with_credentials(Some(Credentials::new(KEY.0, KEY.1))))
        .collect();
    // Signed while the key still works, as a URL is that was handed out.
    let wires: Vec<_> = clients.iter().map(|client| client.sign(buckets(auth))).collect();
    for (client, wire) in clients.iter().zip(&wires) {
        let response = client.send_wire(wire).await.map_err(|error| error.to_string())?;
        if response.status != 200 {
            return Err(format!("before: {}", response.describe()));
        }
    }
    commands.ok(&[how, "revoked"])?;
    let asked = clients.iter().zip(&wires).map(|(client, wire)| async move {
        loop {
            let response = client.send_wire(wire).await.map_err(|error| error.to_string())?;
            if response.status != 200 {
                return dead(&response);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let outcome = tokio::time::timeout(REVOCATION_DEADLINE, join_all(asked)).await;
    if how == "rotate" {
        commands.ok(&["remove", "revoked"])?;
    }
    outcome.map_err(|_| "still alive after 5 s".to_string())?.into_iter().collect()
}
