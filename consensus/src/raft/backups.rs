//! The rows of a voter as of one entry, handed out page by page to whoever makes a backup, or lost its own.
//!
//! One backup at a time: it holds on to a checkpoint, whose pages the file cannot use again meanwhile. One that nobody
//! asks for any more is forgotten.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fabric::codec;
use fabric::env::{Env, random_u64, run_blocking};

use super::machine::{Cursor, SnapshotData, Tables};
use super::types::SnapshotMeta;
use super::wire::{BackupAnswer, BackupPlace, BackupRequest, PAGE_FORMAT};
use crate::meta::store::TableId;

/// A backup that nobody asked for during this is forgotten.
const IDLE: Duration = Duration::from_secs(60);

const NOTHING: &str = "nothing was ever decided here";

/// See the file's head.
#[derive(Default)]
pub(super) struct Backups(Arc<Mutex<Option<Backup>>>);

#[derive(Clone)]
struct Backup {
    token: u64,
    meta: SnapshotMeta,
    snapshot: SnapshotData,
    asked: Duration,
}

impl Backups {
    /// Answers one request: also with what the rows are as of, and the page.
    pub async fn page(
        &self,
        env: &Arc<dyn Env>,
        tables: &Arc<Tables>,
        request: BackupRequest,
    ) -> Result<(BackupAnswer, SnapshotMeta, Bytes), String> {
        let refused = |why: String| Ok((BackupAnswer::Refused(why), SnapshotMeta::default(), Bytes::new()));
        let found = match request.place {
            None => self.begin(env, tables).await?,
            Some(_) => self.current().clone().filter(|backup| backup.token == request.token),
        };
        let Some(Backup { token, meta, snapshot, .. }) = found else {
            return refused(
                "another one was begun, or this one was not asked for during a minute".to_string(),
            );
        };
        let log_id = meta.last_log_id.ok_or(NOTHING)?;
        if log_id.index < request.at_least {
            return refused(format!("entry {} is not applied here yet", request.at_least));
        }
        self.touch(token, env.monotonic());
        let cursor = cursor_at(request.place)?;
        let (page, next) = run_blocking(&**env, move || snapshot.page(&cursor))
            .await
            .map_err(|fault| format!("read a page of the backup: {fault}"))?;
        let last = page.rows.is_empty();
        let next = next.map(|(table, key)| BackupPlace { table: table.number(), key });
        let (index, term) = (log_id.index, log_id.leader_id.term);
        let answer = BackupAnswer::Page { token, index, term, next, last };
        Ok((answer, meta, codec::encode(PAGE_FORMAT, &page).into()))
    }

    async fn begin(&self, env: &Arc<dyn Env>, tables: &Arc<Tables>) -> Result<Option<Backup>, String> {
        tables.checkpoint().await.map_err(|error| format!("make a checkpoint: {error}"))?;
        let snapshot = tables.snapshot().await;
        if snapshot.meta.last_log_id.is_none() {
            return Err(NOTHING.to_string());
        }
        let token = random_u64(&**env);
        let backup =
            Backup { token, meta: snapshot.meta, snapshot: snapshot.snapshot, asked: env.monotonic() };
        *self.current() = Some(backup.clone());
        let (kept, clock) = (self.0.clone(), env.clone());
        let forget = async move {
            loop {
                tokio::time::sleep(IDLE).await;
                let mut current = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let mine = current.as_ref().filter(|backup| backup.token == token);
                let Some(asked) = mine.map(|backup| backup.asked) else { return };
                if clock.monotonic().saturating_sub(asked) >= IDLE {
                    *current = None;
                    return;
                }
            }
        };
        env.spawn("backup", Box::pin(forget));
        Ok(Some(backup))
    }

    fn touch(&self, token: u64, now: Duration) {
        if let Some(backup) = self.current().as_mut().filter(|backup| backup.token == token) {
            backup.asked = now;
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Backup>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cursor_at(place: Option<BackupPlace>) -> Result<Cursor, String> {
    let Some(BackupPlace { table, key }) = place else { return Ok(None) };
    let table = TableId::from_number(table).ok_or_else(|| format!("there is no table {table}"))?;
    Ok(Some((table, key)))
}
