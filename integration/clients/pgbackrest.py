"""pgBackRest: a PostgreSQL of its own, whose log and backups go into a bucket over TLS.

Beside the variables of common.py it needs CA_FILE, the certificate that the endpoint's is signed with. Run by root, it
runs both programs as the user `postgres`, since PostgreSQL refuses root.
"""

import glob
import os
import shutil
import tempfile
import time
from urllib.parse import urlsplit

import boto3

from common import ACCESS_KEY, ENDPOINT, SECRET_KEY, check, equal, main, run

BUCKET = "pgbackrest"
HOME = tempfile.mkdtemp(prefix="pgbackrest-", dir="/tmp")
DATA = f"{HOME}/data"
CONFIG = f"{HOME}/pgbackrest.conf"
URL = urlsplit(ENDPOINT)
BIN = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]

with open(CONFIG, "w") as file:
    file.write(
        f"""[global]
repo1-type=s3
repo1-path=/repo
repo1-s3-bucket={BUCKET}
repo1-s3-endpoint={URL.hostname}
repo1-storage-port={URL.port}
repo1-storage-ca-file={HOME}/ca.pem
repo1-s3-uri-style=path
repo1-s3-region=us-east-1
repo1-s3-key={ACCESS_KEY}
repo1-s3-key-secret={SECRET_KEY}
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=a passphrase for a test
repo1-retention-full=1
repo1-bundle=y
process-max=2
start-fast=y
log-path={HOME}
spool-path={HOME}
lock-path={HOME}/lock
log-level-console=warn
archive-timeout=30
[main]
pg1-path={DATA}
pg1-socket-path={HOME}
"""
    )
shutil.copy(os.environ["CA_FILE"], f"{HOME}/ca.pem")
if os.geteuid() == 0:
    run("chown", "-R", "postgres", HOME)


def as_postgres(*command):
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    return run(*user, *command, cwd=HOME)


def backrest(*args):
    return as_postgres("pgbackrest", f"--config={CONFIG}", "--stanza=main", *args)


def pg(*args):
    return as_postgres(f"{BIN}/pg_ctl", "-D", DATA, "-w", "-l", f"{HOME}/postgres.log", *args)


def sql(text):
    return as_postgres(f"{BIN}/psql", "-h", HOME, "-At", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", text).strip()


def count():
    return int(sql("SELECT count(*) FROM numbers"))


def backups():
    return backrest("info").count(" backup: ")


@check
def a_stanza_over_tls():
    # The certificate of the store is none that boto3 would know by itself.
    boto3.client("s3", verify=os.environ["CA_FILE"]).create_bucket(Bucket=BUCKET)
    as_postgres(f"{BIN}/initdb", "-D", DATA, "--auth=trust", "--no-sync")
    with open(f"{DATA}/postgresql.conf", "a") as settings:
        settings.write(
            f"""listen_addresses = ''
unix_socket_directories = '{HOME}'
archive_mode = on
archive_command = 'pgbackrest --config={CONFIG} --stanza=main archive-push %p'
fsync = off
"""
        )
    pg("start")
    backrest("stanza-create")
    backrest("check")


@check
def full_differential_and_incremental_backups():
    sql("CREATE TABLE numbers AS SELECT n, md5(n::text) AS m FROM generate_series(1, 200000) n")
    backrest("backup", "--type=full")
    sql("INSERT INTO numbers SELECT n, md5(n::text) FROM generate_series(200001, 250000) n")
    backrest("backup", "--type=diff")
    sql("INSERT INTO numbers SELECT n, md5(n::text) FROM generate_series(250001, 260000) n")
    backrest("backup", "--type=incr")
    equal(backups(), 3)
    backrest("verify")


@check
def restore_to_a_moment():
    moment = sql("SELECT clock_timestamp()")
    time.sleep(0.1)
    sql("DELETE FROM numbers WHERE n % 2 = 0")
    sql("SELECT pg_switch_wal()")
    equal(count(), 130_000)
    pg("stop")
    shutil.rmtree(DATA)
    as_postgres("mkdir", "-m", "700", DATA)
    backrest("restore", "--type=time", f"--target={moment}", "--target-action=promote")
    pg("start")
    for _ in range(100):
        if sql("SELECT pg_is_in_recovery()") == "f":
            break
        time.sleep(0.1)
    equal(count(), 260_000)
    equal(sql("SELECT count(*) FROM numbers WHERE m <> md5(n::text)"), "0")


@check
def what_is_too_old_expires():
    backrest("backup", "--type=full")
    equal(backups(), 1)
    backrest("stop")
    pg("stop", "-m", "immediate")
    backrest("stanza-delete", "--force")
    left = boto3.client("s3", verify=os.environ["CA_FILE"]).list_objects_v2(Bucket=BUCKET)
    equal([entry["Key"] for entry in left.get("Contents", [])], [])


try:
    main("pgbackrest")
finally:
    if os.path.exists(f"{DATA}/postmaster.pid"):
        pg("stop", "-m", "immediate")
    shutil.rmtree(HOME, ignore_errors=True)
