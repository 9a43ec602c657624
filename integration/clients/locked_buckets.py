"""Backups into buckets that keep versions and into locked ones: rclone and restic. Which one is the first argument."""

import json
import os
import shutil
import sys
import time

import boto3
from botocore.exceptions import ClientError

from common import ENDPOINT, check, content, equal, fails, main, make_tree, run, tree, write

TOOL = sys.argv[1]
s3 = boto3.resource("s3")


def only(tool):
    """Registers the checks of one tool."""
    return check if TOOL == tool else lambda function: function


def versioned(name):
    bucket = s3.Bucket(name)
    bucket.create()
    bucket.Versioning().enable()
    return bucket


def locked(name):
    """A bucket whose new versions stay for a day, unless its owner insists."""
    bucket = s3.Bucket(name)
    bucket.create(ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    s3.meta.client.put_object_lock_configuration(
        Bucket=name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    return bucket


def delete_markers(bucket):
    pages = s3.meta.client.get_paginator("list_object_versions").paginate(Bucket=bucket.name)
    return [marker for page in pages for marker in page.get("DeleteMarkers", [])]


def undelete(bucket):
    """What was deleted comes back when its marker goes. Locks of programs that have ended stay away."""
    for marker in delete_markers(bucket):
        if marker["Key"].startswith("locks/"):
            continue
        bucket.Object(marker["Key"]).delete(VersionId=marker["VersionId"])


def nothing_can_be_destroyed(bucket):
    """Whoever has the keys but does not say that he bypasses the lock removes nothing."""
    before = sorted((version.object_key, version.id) for version in bucket.object_versions.all())
    for version in list(bucket.object_versions.all()):
        if version.size is None:
            continue  # A delete marker has no lock.
        try:
            version.delete()
        except ClientError as error:
            equal(error.response["Error"]["Code"], "AccessDenied")
        else:
            raise AssertionError(f"{version.object_key} is gone")
    equal(sorted((version.object_key, version.id) for version in bucket.object_versions.all()), before)


def remove(bucket):
    for version in list(bucket.object_versions.all()):
        version.delete(BypassGovernanceRetention=True)
    bucket.delete()


# rclone ---------------------------------------------------------------------------------------------------


@only("rclone")
def a_bucket_as_it_was_at_a_time():
    bucket = versioned("rclone-times")
    first = make_tree("up")
    run("rclone", "sync", "up", "fluffy:rclone-times")
    time.sleep(1.1)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    time.sleep(1.1)
    shutil.rmtree("up/dir")
    write("up/small.txt", b"changed later")
    run("rclone", "sync", "up", "fluffy:rclone-times")
    run("rclone", "check", "--download", "up", "fluffy:rclone-times")
    run("rclone", "copy", "--s3-version-at", moment, "fluffy:rclone-times", "then")
    equal(tree("then"), first)
    remove(bucket)


@only("rclone")
def uploads_with_a_lock_of_their_own():
    run("rclone", "mkdir", "--s3-bucket-object-lock-enabled", "fluffy:rclone-own-lock")
    write("kept/small", content(100))
    write("kept/parts", content(12_000_000))
    lock = ["--s3-object-lock-mode", "GOVERNANCE", "--s3-object-lock-retain-until-date", "1h"]
    parts = ["--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M"]
    run("rclone", "copy", *lock, *parts, "--s3-object-lock-supported", "true", "kept", "fluffy:rclone-own-lock")
    bucket = s3.Bucket("rclone-own-lock")
    for key in ["small", "parts"]:
        equal(bucket.Object(key).object_lock_mode, "GOVERNANCE")
    nothing_can_be_destroyed(bucket)
    remove(bucket)


@only("rclone")
def a_locked_bucket_survives_a_purge():
    bucket = locked("rclone-locked")
    make_tree("again")
    run("rclone", "copy", "again", "fluffy:rclone-locked")
    run("rclone", "delete", "fluffy:rclone-locked")
    equal(run("rclone", "lsf", "fluffy:rclone-locked").strip(), "")
    said = fails("rclone", "purge", "--retries", "1", "--low-level-retries", "1", "fluffy:rclone-locked")
    assert "AccessDenied" in said, said
    nothing_can_be_destroyed(bucket)
    undelete(bucket)
    run("rclone", "check", "--download", "again", "fluffy:rclone-locked")
    remove(bucket)


# restic ---------------------------------------------------------------------------------------------------

os.environ.update(RESTIC_PASSWORD="a password for a test")


def restic(bucket, *args):
    return run("restic", "--repo", f"s3:{ENDPOINT}/{bucket.name}", *args)


def snapshots(bucket):
    return [snapshot["id"] for snapshot in json.loads(restic(bucket, "snapshots", "--json"))]


@only("restic")
def a_locked_repository_is_pruned_and_not_destroyed():
    bucket = locked("restic-locked")
    restic(bucket, "init")
    for seed in [1, 2]:
        make_tree("data", seed)
        restic(bucket, "backup", "data")
    old, new = snapshots(bucket)
    restic(bucket, "forget", "--keep-last", "1", "--prune")
    restic(bucket, "check", "--read-data")
    equal(snapshots(bucket), [new])
    nothing_can_be_destroyed(bucket)
    undelete(bucket)
    restic(bucket, "restore", old, "--target", "back")
    expected = make_tree("data", seed=1)
    whole = "back/" + os.path.abspath("data").lstrip("/")  # Older versions keep the whole path.
    equal(tree(whole if os.path.exists(whole) else "back/data"), expected)
    remove(bucket)


main(f"{TOOL} on kept versions")
