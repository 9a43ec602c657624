"""Buckets of another cluster of the overlay, by way of a gateway that knows nothing of them: boto3, the aws CLI, rclone.

BUCKET is at home elsewhere, in the region HOME_REGION.
"""

import os
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from common import ENDPOINT, check, content, equal, main, make_tree, read, run, tree, write

BUCKET = os.environ["BUCKET"]
HOME_REGION = os.environ["HOME_REGION"]
os.environ["RCLONE_CONFIG_FLUFFY_REGION"] = os.environ["AWS_DEFAULT_REGION"]
s3 = boto3.client("s3", endpoint_url=ENDPOINT, config=Config(signature_version="s3v4"))


@check
def boto3_finds_the_bucket_and_its_region():
    listed = {bucket["Name"]: bucket["BucketRegion"] for bucket in s3.list_buckets()["Buckets"]}
    equal(listed[BUCKET], HOME_REGION)
    equal(s3.head_bucket(Bucket=BUCKET)["BucketRegion"], HOME_REGION)
    equal(s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"], HOME_REGION)


@check
def boto3_in_parts_and_back():
    write("large", content(21_000_000))
    parts = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    s3.upload_file("large", BUCKET, "large", Config=parts)
    s3.download_file(BUCKET, "large", "back", Config=parts)
    equal(read("back"), read("large"))


@check
def boto3_versions_tags_and_conditions():
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket=BUCKET, Key="k", Body=b"one", Tagging="a=b")
    second = s3.put_object(Bucket=BUCKET, Key="k", Body=b"two", IfMatch=first["ETag"])
    assert first["VersionId"] != second["VersionId"]
    equal(s3.get_object(Bucket=BUCKET, Key="k", VersionId=first["VersionId"])["Body"].read(), b"one")
    tags = s3.get_object_tagging(Bucket=BUCKET, Key="k", VersionId=first["VersionId"])["TagSet"]
    equal(tags, [{"Key": "a", "Value": "b"}])
    try:
        s3.put_object(Bucket=BUCKET, Key="k", Body=b"three", IfMatch=first["ETag"])
        raise AssertionError("an old ETag was taken")
    except s3.exceptions.ClientError as error:
        equal(error.response["Error"]["Code"], "PreconditionFailed")


@check
def boto3_presigned():
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "k"})
    equal(urllib.request.urlopen(url, timeout=30).read(), b"two")


@check
def boto3_copies_and_deletes_many():
    s3.copy_object(Bucket=BUCKET, Key="copied", CopySource={"Bucket": BUCKET, "Key": "k"})
    equal(s3.get_object(Bucket=BUCKET, Key="copied")["Body"].read(), b"two")
    deleted = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "k"}, {"Key": "copied"}]})
    equal(len(deleted["Deleted"]), 2)


@check
def aws_cli_syncs():
    make_tree("up")
    run("aws", "s3", "sync", "up", f"s3://{BUCKET}/tree")
    run("aws", "s3", "sync", f"s3://{BUCKET}/tree", "down")
    equal(tree("down"), tree("up"))


@check
def rclone_copies_and_checks():
    run("rclone", "copy", "up", f"fluffy:{BUCKET}/rclone")
    run("rclone", "check", "--download", "up", f"fluffy:{BUCKET}/rclone")
    assert f"{BUCKET}" in run("rclone", "lsd", "fluffy:")
    run("rclone", "delete", f"fluffy:{BUCKET}/rclone")
    equal(run("rclone", "lsf", f"fluffy:{BUCKET}/rclone").strip(), "")


main("overlay")
