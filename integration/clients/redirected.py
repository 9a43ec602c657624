"""A bucket of another cluster, at a gateway that redirects: clients that follow, and clients that report it.

BUCKET is at home at HOME_ENDPOINT, in the region HOME_REGION.
"""

import os
import shutil
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from common import ACCESS_KEY, ENDPOINT, SECRET_KEY, check, content, equal, main, read, run, write

BUCKET = os.environ["BUCKET"]
HOME = os.environ["HOME_ENDPOINT"]
HOME_REGION = os.environ["HOME_REGION"]


def client(endpoint, region):
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)


s3 = client(ENDPOINT, os.environ["AWS_DEFAULT_REGION"])


def redirected(call):
    """A client for where the call is to be sent instead."""
    try:
        call(s3)
    except ClientError as error:
        told, headers = error.response["Error"], error.response["ResponseMetadata"]["HTTPHeaders"]
        equal(error.response["ResponseMetadata"]["HTTPStatusCode"], 307)
        equal(told["Code"], "TemporaryRedirect")
        equal(told["Bucket"], BUCKET)
        assert headers["location"].startswith(f"{HOME}/{BUCKET}")
        return client(f"http://{told['Endpoint']}", headers["x-amz-bucket-region"])
    raise AssertionError("not redirected")


@check
def boto3_reports_it_and_follows_what_it_says():
    for call in (
        lambda s3: s3.put_object(Bucket=BUCKET, Key="followed", Body=b"hello"),
        lambda s3: equal(s3.get_object(Bucket=BUCKET, Key="followed")["Body"].read(), b"hello"),
        lambda s3: equal(s3.list_objects_v2(Bucket=BUCKET, Prefix="foll")["KeyCount"], 1),
    ):
        call(redirected(call))


@check
def curl_follows():
    if shutil.which("curl") is None:
        return
    write("sent", content(100_000))
    url = f"{ENDPOINT}/{BUCKET}/by-curl"
    options = ("--silent", "--show-error", "--fail", "--location-trusted", "--aws-sigv4", f"aws:amz:{HOME_REGION}:s3")
    user = ("--user", f"{ACCESS_KEY}:{SECRET_KEY}")
    run("curl", *options, *user, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--upload-file", "sent", url)
    run("curl", *options, *user, "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--output", "back", url)
    equal(read("back"), read("sent"))
    equal(client(HOME, HOME_REGION).head_object(Bucket=BUCKET, Key="by-curl")["ContentLength"], 100_000)


@check
def a_presigned_url_is_good_for_one_host_and_sent_on():
    client(HOME, HOME_REGION).put_object(Bucket=BUCKET, Key="presigned", Body=b"signed")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "presigned"})
    with urllib.request.urlopen(url, timeout=30) as answer:
        equal((answer.read(), answer.url), (b"signed", url))


main("redirected")
