//! The admin port: every route without the token, and with everything that is not the token.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::client::{Response, Wire};
use crate::daemons::{OTHER, send_plain};

/// Every route, on a user and a bucket that exist, and some that are none.
const ROUTES: &[(&str, &str)] = &[
    ("GET", "/users"),
    ("POST", "/users"),
    ("DELETE", "/users/other"),
    ("POST", "/users/other/rotate"),
    ("GET", "/users/other/quota"),
    ("PUT", "/users/other/quota"),
    ("DELETE", "/users/other/quota"),
    ("GET", "/buckets/bad-input/quota"),
    ("GET", "/users/other/policies"),
    ("PUT", "/users/other/policies/all"),
    ("DELETE", "/users/other/policies/all"),
    ("PUT", "/buckets/bad-input/quota"),
    ("DELETE", "/buckets/bad-input/quota"),
    ("GET", "/buckets/bad-input/storage-class"),
    ("PUT", "/buckets/bad-input/storage-class"),
    ("DELETE", "/buckets/bad-input/storage-class"),
    ("GET", "/buckets/bad-input/staleness"),
    ("PUT", "/buckets/bad-input/staleness"),
    ("DELETE", "/buckets/bad-input/staleness"),
    ("POST", "/search"),
    ("GET", "/overlay"),
    ("DELETE", "/overlay"),
    ("GET", "/overlay/catalog"),
    ("POST", "/overlay/invites"),
    ("POST", "/overlay/members"),
    ("DELETE", "/overlay/members/east"),
    ("POST", "/overlay/follows"),
    ("POST", "/overlay/promotions"),
    ("GET", "/overlay/superseded/photos"),
    ("DELETE", "/overlay/superseded/photos"),
    ("POST", "/overlay/grants"),
    ("DELETE", "/overlay/grants"),
    ("POST", "/metrics"),
    ("DELETE", "/status"),
    ("PUT", "/health/ready"),
    ("POST", "/health/live"),
    ("GET", "/"),
    ("GET", "/nothing"),
    ("GET", "/users/../metrics"),
    ("OPTIONS", "/users"),
];

/// What callers on this machine see without a token.
const OPEN: &[&str] = &["/health/live", "/health/ready", "/metrics", "/status"];

/// Runs the cases; `report` hears of each route.
pub async fn run(
    admin: SocketAddr,
    token: &str,
    mut report: impl FnMut(&str, Result<(), String>),
) -> Result<()> {
    let before = users(admin, token).await?;
    for (method, path) in ROUTES {
        report(
            &format!("H187 admin: {method} {path} needs the token"),
            refused(admin, token, method, path).await,
        );
    }
    for path in OPEN {
        let response = send(admin, "GET", path, None).await?;
        let told = String::from_utf8_lossy(&response.body).contains(token);
        let outcome = if response.status == 200 && !told { Ok(()) } else { Err(response.describe()) };
        report(&format!("H189 admin: GET {path} is open here and tells no secret"), outcome);
    }
    let after = users(admin, token).await?;
    let outcome = if after == before { Ok(()) } else { Err(format!("{before}, then {after}")) };
    report("H187 admin: nobody changed anything", outcome);
    Ok(())
}

/// The users as the token shows them: the port does open with it.
async fn users(admin: SocketAddr, token: &str) -> Result<String> {
    let response = send(admin, "GET", "/users", Some(&format!("Bearer {token}"))).await?;
    let text = String::from_utf8_lossy(&response.body).into_owned();
    ensure!(response.status == 200 && text.contains(OTHER.0), "{}", response.describe());
    Ok(text)
}

async fn refused(admin: SocketAddr, token: &str, method: &str, path: &str) -> Result<(), String> {
    let shorter = &token[..token.len() - 1];
    let shown = [
        None,
        Some(String::new()),
        Some("Bearer".to_string()),
        Some("Bearer ".to_string()),
        Some(format!("Bearer {shorter}")),
        Some(format!("Bearer {token}0")),
        Some(format!("Bearer {shorter}_")),
        Some(format!("Bearer {}", swapped_case(token))),
        Some(format!("Basic {token}")),
        Some(token.to_string()),
    ];
    for shown in shown {
        let response = send(admin, method, path, shown.as_deref()).await;
        let response = response.map_err(|error| error.to_string())?;
        let body = String::from_utf8_lossy(&response.body);
        if response.status != 401 || body.contains(token) {
            let shown = shown.map_or("nothing".to_string(), |shown| shown.replace(token, "TOKEN"));
            return Err(format!("{shown:?} is answered {}", response.describe()));
        }
    }
    Ok(())
}

fn swapped_case(text: &str) -> String {
    let swap = |letter: char| {
        if letter.is_ascii_lowercase() { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
    };
    text.chars().map(swap).collect()
}

async fn send(admin: SocketAddr, method: &str, path: &str, shown: Option<&str>) -> Result<Response> {
    // What would make a user, or set a quota or a class, if it were let in.
    let body = br#"{"name": "intruder", "bytes_max": 1, "class": "STANDARD_IA"}"#.to_vec();
    let mut headers =
        vec![("host".to_string(), admin.to_string()), ("content-length".to_string(), body.len().to_string())];
    headers.extend(shown.map(|shown| ("authorization".to_string(), shown.to_string())));
    let wire = Wire { method: method.to_string(), target: path.to_string(), headers, body, generated: None };
    Ok(send_plain(admin, &wire).await?)
}

#[cfg(test)]
mod tests {
    /// The words of the routes in the source of the port, so that a new one is not forgotten here.
    #[test]
    fn every_route_is_attacked() {
        let source = include_str!("../../../gateway/src/admin/mod.rs");
        let routes = source.split("async fn route(").nth(1).and_then(|rest| rest.split("\n    }\n").next());
        let words: Vec<&str> = routes
            .unwrap_or_default()
            .lines()
            .filter(|line| line.contains("[") && (line.contains("Method::") || line.contains("(_,")))
            .flat_map(|line| line.split('"').skip(1).step_by(2))
            .collect();
        assert!(words.contains(&"rotate"), "the routes are not where they were: {words:?}");
        for word in words {
            let attacked = super::ROUTES.iter().any(|(_, path)| path.split('/').any(|part| part == word));
            assert!(attacked, "no case for {word:?}");
        }
    }
}
