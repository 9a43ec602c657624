"""Buckets that are made at a cluster above its mark, and are at home in another one: ROOMY_REGION."""

import os

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from common import ENDPOINT, check, content, equal, main, read, run, write

ROOMY = os.environ["ROOMY_REGION"]
os.environ["RCLONE_CONFIG_FLUFFY_REGION"] = os.environ["AWS_DEFAULT_REGION"]
config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
s3 = boto3.client("s3", endpoint_url=ENDPOINT, config=config)


def is_in_the_other_cluster(bucket):
    equal(s3.get_bucket_location(Bucket=bucket)["LocationConstraint"], ROOMY)
    listed = {bucket["Name"]: bucket.get("BucketRegion") for bucket in s3.list_buckets()["Buckets"]}
    equal(listed.get(bucket), ROOMY)


@check
def boto3_makes_a_bucket_that_is_elsewhere_and_uses_it():
    s3.create_bucket(Bucket="by-boto3")
    s3.put_object(Bucket="by-boto3", Key="k", Body=b"hello")
    equal(s3.get_object(Bucket="by-boto3", Key="k")["Body"].read(), b"hello")
    is_in_the_other_cluster("by-boto3")
    try:
        s3.create_bucket(Bucket="by-boto3")
    except ClientError as error:
        equal(error.response["Error"]["Code"], "BucketAlreadyOwnedByYou")
    else:
        raise AssertionError("made twice")


@check
def rclone_makes_its_bucket_on_the_way():
    write("sent", content(100_000))
    run("rclone", "copyto", "sent", "fluffy:by-rclone/sent")
    run("rclone", "copyto", "fluffy:by-rclone/sent", "back")
    equal(read("back"), read("sent"))
    is_in_the_other_cluster("by-rclone")


@check
def the_aws_cli_asks_for_no_place_if_not_told_to():
    run("aws", "s3api", "create-bucket", "--endpoint-url", ENDPOINT, "--bucket", "by-aws")
    is_in_the_other_cluster("by-aws")


@check
def a_bucket_with_locks_is_elsewhere_with_its_locks():
    s3.create_bucket(Bucket="locked-elsewhere", ObjectLockEnabledForBucket=True)
    configuration = s3.get_object_lock_configuration(Bucket="locked-elsewhere")["ObjectLockConfiguration"]
    equal(configuration["ObjectLockEnabled"], "Enabled")
    is_in_the_other_cluster("locked-elsewhere")


main("room")
