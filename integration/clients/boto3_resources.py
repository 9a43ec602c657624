"""boto3's resources and its transfer manager, as applications use them that never build a request themselves."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, WaiterError

from common import check, content, equal, main, read, write

s3 = boto3.resource("s3")
bucket = s3.Bucket("boto3-resources")
PARTS = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=8)


class Unseekable(io.RawIOBase):
    """A stream whose length nobody knows, as from a pipe."""

    def __init__(self, data):
        self._inner = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, into):
        return self._inner.readinto(into)


def refused(code, function, **arguments):
    try:
        function(**arguments)
    except ClientError as error:
        return equal(error.response["Error"]["Code"], code)
    raise AssertionError(f"no {code}")


@check
def create_and_wait():
    bucket.create()
    bucket.wait_until_exists()
    assert bucket.creation_date is not None
    assert bucket.name in [found.name for found in s3.buckets.all()]
    waiter = s3.meta.client.get_waiter("object_exists")
    try:
        waiter.wait(Bucket=bucket.name, Key="missing", WaiterConfig={"Delay": 0, "MaxAttempts": 2})
    except WaiterError as error:
        assert "Max attempts" in str(error), error
    s3.meta.client.get_waiter("object_not_exists").wait(Bucket=bucket.name, Key="missing")


@check
def attributes_of_an_object():
    thing = bucket.put_object(Key="thing", Body=b"0123456789", ContentType="text/x-digits", Metadata={"a": "b"})
    thing.wait_until_exists()
    equal((thing.content_type, thing.content_length, thing.metadata), ("text/x-digits", 10, {"a": "b"}))
    summary = next(iter(bucket.objects.filter(Prefix="thing")))
    equal((summary.e_tag, summary.size, summary.last_modified), (thing.e_tag, 10, thing.last_modified))
    equal(thing.get(Range="bytes=2-4")["Body"].read(), b"234")
    equal([line for line in thing.get()["Body"].iter_chunks(4)], [b"0123", b"4567", b"89"])


@check
def transfers_in_parts_with_progress():
    write("up", content(33_000_000))
    seen, lock = [0], threading.Lock()

    def progress(count):
        with lock:
            seen[0] += count

    bucket.upload_file("up", "large", Callback=progress, Config=PARTS, ExtraArgs={"Metadata": {"k": "v"}})
    equal(seen[0], 33_000_000)
    assert bucket.Object("large").e_tag.endswith('-7"'), bucket.Object("large").e_tag
    equal(bucket.Object("large").metadata, {"k": "v"})
    seen[0] = 0
    bucket.download_file("large", "down", Callback=progress, Config=PARTS)
    equal(seen[0], 33_000_000)
    assert read("down") == read("up"), "other bytes"


@check
def transfers_of_streams():
    data = content(12_000_001)
    bucket.upload_fileobj(Unseekable(data), "stream", Config=PARTS)
    into = io.BytesIO()
    bucket.download_fileobj("stream", into, Config=PARTS)
    assert into.getvalue() == data, "other bytes"


@check
def transfers_with_each_checksum():
    for algorithm in ["CRC32", "SHA1", "SHA256"]:
        extra = {"ChecksumAlgorithm": algorithm}
        bucket.upload_fileobj(io.BytesIO(content(6_000_000)), f"sum/{algorithm}", Config=PARTS, ExtraArgs=extra)
        head = s3.meta.client.head_object(Bucket=bucket.name, Key=f"sum/{algorithm}", ChecksumMode="ENABLED")
        assert f"Checksum{algorithm}" in head, head
        into = io.BytesIO()
        bucket.download_fileobj(f"sum/{algorithm}", into, ExtraArgs={"ChecksumMode": "ENABLED"}, Config=PARTS)
        assert into.getvalue() == content(6_000_000), "other bytes"


@check
def many_transfers_at_once():
    bodies = {f"many/{index:03}": content(50_000 + index, index) for index in range(200)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bucket.upload_fileobj(io.BytesIO(bodies[key]), key), bodies))
    equal([found.key for found in bucket.objects.filter(Prefix="many/")], sorted(bodies))
    for found in bucket.objects.filter(Prefix="many/").limit(20):
        assert found.get()["Body"].read() == bodies[found.key], found.key


@check
def copies_on_the_server():
    source = {"Bucket": bucket.name, "Key": "large"}
    bucket.copy(source, "copied", Config=PARTS)
    equal(bucket.Object("copied").content_length, 33_000_000)
    equal(bucket.Object("copied").metadata, {"k": "v"})
    thing = bucket.Object("thing-copied")
    thing.copy_from(CopySource={"Bucket": bucket.name, "Key": "thing"}, MetadataDirective="REPLACE", Metadata={"c": "d"})
    equal(thing.metadata, {"c": "d"})


@check
def an_upload_by_its_resource():
    upload = bucket.Object("assembled").initiate_multipart_upload()
    bodies = [content(5 << 20, 1), b"tail"]
    parts = [upload.Part(number).upload(Body=body)["ETag"] for number, body in enumerate(bodies, 1)]
    equal([part.part_number for part in upload.parts.all()], [1, 2])
    assert upload.id in [found.id for found in bucket.multipart_uploads.all()]
    upload.complete(
        MultipartUpload={"Parts": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(parts, 1)]},
        IfNoneMatch="*",
    )
    assert bucket.Object("assembled").get()["Body"].read() == b"".join(bodies), "other bytes"
    aborted = bucket.Object("assembled").initiate_multipart_upload()
    aborted.abort()
    refused("NoSuchUpload", aborted.Part(1).upload, Body=b"late")


@check
def conditional_writes():
    create = {"Key": "once", "IfNoneMatch": "*"}
    first = bucket.put_object(Body=b"first", **create)
    refused("PreconditionFailed", bucket.put_object, Body=b"second", **create)
    equal(first.get()["Body"].read(), b"first")
    old = first.e_tag
    first.put(Body=b"third", IfMatch=old)
    refused("PreconditionFailed", first.put, Body=b"fourth", IfMatch=old)
    equal(first.get()["Body"].read(), b"third")


@check
def tagging_and_cors_resources():
    tagging = bucket.Tagging()
    tagging.put(Tagging={"TagSet": [{"Key": "team", "Value": "store"}]})
    tagging.reload()
    equal(tagging.tag_set, [{"Key": "team", "Value": "store"}])
    tagging.delete()
    cors = bucket.Cors()
    cors.put(CORSConfiguration={"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]})
    cors.reload()
    equal(cors.cors_rules[0]["AllowedOrigins"], ["*"])
    cors.delete()
    equal(bucket.Acl().grants[0]["Permission"], "FULL_CONTROL")


@check
def batches_delete_everything():
    deleted = [entry for answer in bucket.objects.all().delete() for entry in answer["Deleted"]]
    assert len(deleted) > 200, len(deleted)
    equal(list(bucket.objects.all()), [])
    bucket.delete()
    bucket.wait_until_not_exists()


main("boto3 resources")
