"""Buckets of another cluster of the overlay, by way of a gateway that knows nothing of them: boto3, the aws CLI, rclone.

BUCKET is at home elsewhere, in the region HOME_REGION; NEAR_BUCKET is at home here.
"""

import os
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from common import ENDPOINT, check, content, equal, main, make_tree, read, run, tree, write

BUCKET = os.environ["BUCKET"]
HOME_REGION = os.environ["HOME_REGION"]
NEAR_BUCKET = os.environ["NEAR_BUCKET"]
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
def boto3_copies_between_clusters():
    said = dict(Metadata={"a": "b"}, Tagging="t=x%20y", ContentType="text/x-far", Body=b"far away " * 9000)
    put = s3.put_object(Bucket=BUCKET, Key="a b/ü", **said)
    far = {"Bucket": BUCKET, "Key": "a b/ü"}
    copied = s3.copy_object(Bucket=NEAR_BUCKET, Key="near", CopySource=far)
    equal(copied["CopySourceVersionId"], put["VersionId"])
    equal(copied["CopyObjectResult"]["ETag"], put["ETag"])
    for bucket, key in ((NEAR_BUCKET, "near"), (BUCKET, "back")):
        if bucket == BUCKET:
            s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": NEAR_BUCKET, "Key": "near"})
        got = s3.get_object(Bucket=bucket, Key=key)
        equal((got["Body"].read(), got["Metadata"], got["ContentType"]), (said["Body"], {"a": "b"}, "text/x-far"))
        tags = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
        equal(tags, [{"Key": "t", "Value": "x y"}])
    replaced = dict(MetadataDirective="REPLACE", Metadata={"c": "d"}, TaggingDirective="REPLACE", Tagging="u=v")
    s3.copy_object(Bucket=NEAR_BUCKET, Key="near", CopySource=far, CopySourceIfMatch=put["ETag"], **replaced)
    equal(s3.head_object(Bucket=NEAR_BUCKET, Key="near")["Metadata"], {"c": "d"})
    equal(s3.get_object_tagging(Bucket=NEAR_BUCKET, Key="near")["TagSet"], [{"Key": "u", "Value": "v"}])
    s3.put_object(Bucket=BUCKET, Key="a b/ü", Body=b"newer")
    s3.copy_object(Bucket=NEAR_BUCKET, Key="old", CopySource={**far, "VersionId": put["VersionId"]})
    equal(s3.get_object(Bucket=NEAR_BUCKET, Key="old")["Body"].read(), said["Body"])
    marker = s3.delete_object(Bucket=BUCKET, Key="a b/ü")["VersionId"]
    for code, source, conditions in (
        ("PreconditionFailed", {**far, "VersionId": put["VersionId"]}, {"CopySourceIfNoneMatch": put["ETag"]}),
        ("NoSuchKey", far, {}),
        ("NoSuchKey", {"Bucket": BUCKET, "Key": "nothing"}, {}),
        ("NoSuchBucket", {"Bucket": "nowhere-at-all", "Key": "k"}, {}),
        ("InvalidRequest", {**far, "VersionId": marker}, {}),
    ):
        try:
            s3.copy_object(Bucket=NEAR_BUCKET, Key="refused", CopySource=source, **conditions)
            raise AssertionError(f"a copy that is {code} was made")
        except s3.exceptions.ClientError as error:
            equal(error.response["Error"]["Code"], code)
    assert "Contents" not in s3.list_objects_v2(Bucket=NEAR_BUCKET, Prefix="refused")


@check
def boto3_copies_parts_between_clusters():
    upload = s3.create_multipart_upload(Bucket=NEAR_BUCKET, Key="parts")["UploadId"]
    place = dict(Bucket=NEAR_BUCKET, Key="parts", UploadId=upload)
    far = {"Bucket": BUCKET, "Key": "large"}
    ranges = ("bytes=0-5999999", "bytes=6000000-20999999")
    copied = [
        s3.upload_part_copy(PartNumber=number, CopySource=far, CopySourceRange=part, **place)
        for number, part in enumerate(ranges, 1)
    ]
    try:
        s3.upload_part_copy(PartNumber=3, CopySource=far, CopySourceRange="bytes=0-21000000", **place)
        raise AssertionError("a range behind the end was copied")
    except s3.exceptions.ClientError as error:
        equal(error.response["Error"]["Code"], "InvalidArgument")
    parts = [{"PartNumber": n, "ETag": part["CopyPartResult"]["ETag"]} for n, part in enumerate(copied, 1)]
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **place)
    equal(s3.get_object(Bucket=NEAR_BUCKET, Key="parts")["Body"].read(), read("large"))


@check
def aws_cli_copies_and_moves_between_clusters():
    run("aws", "s3", "cp", f"s3://{BUCKET}/large", f"s3://{NEAR_BUCKET}/dir/large")
    run("aws", "s3", "mv", f"s3://{NEAR_BUCKET}/dir/large", f"s3://{BUCKET}/moved")
    run("aws", "s3", "cp", f"s3://{BUCKET}/moved", "moved")
    equal(read("moved"), read("large"))
    assert "Contents" not in s3.list_objects_v2(Bucket=NEAR_BUCKET, Prefix="dir/")


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
