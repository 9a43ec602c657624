"""boto3, with its defaults."""

import datetime
import io
import urllib.error
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from common import check, content, equal, main, read, write

s3 = boto3.client("s3")
BUCKET = "boto3"


def refused(code, function, **arguments):
    try:
        function(**arguments)
    except ClientError as error:
        equal(error.response["Error"]["Code"], code)
        return error.response
    raise AssertionError(f"no {code}")


@check
def put_and_get():
    s3.create_bucket(Bucket=BUCKET)
    put = s3.put_object(Bucket=BUCKET, Key="k", Body=b"hello", Metadata={"a": "b"}, ContentType="text/plain")
    got = s3.get_object(Bucket=BUCKET, Key="k")
    equal(got["Body"].read(), b"hello")
    equal((got["Metadata"], got["ContentType"], got["ETag"]), ({"a": "b"}, "text/plain", put["ETag"]))


@check
def empty_and_unseekable_bodies():
    s3.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    equal(s3.get_object(Bucket=BUCKET, Key="empty")["Body"].read(), b"")
    s3.upload_fileobj(io.BytesIO(content(100_000)), BUCKET, "stream")
    equal(s3.get_object(Bucket=BUCKET, Key="stream")["Body"].read(), content(100_000))


@check
def multipart_by_upload_fileobj():
    data = content(30_000_000)
    config = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20)
    s3.upload_fileobj(io.BytesIO(data), BUCKET, "multipart", Config=config)
    head = s3.head_object(Bucket=BUCKET, Key="multipart")
    assert head["ETag"].endswith('-4"'), head["ETag"]
    into = io.BytesIO()
    s3.download_fileobj(BUCKET, "multipart", into)
    assert into.getvalue() == data, "other bytes"
    equal(s3.get_object(Bucket=BUCKET, Key="multipart", PartNumber=2)["ContentLength"], 8 << 20)


@check
def files():
    write("up", content(9_000_000))
    s3.upload_file("up", BUCKET, "file")
    s3.download_file(BUCKET, "file", "down")
    assert read("down") == read("up"), "other bytes"


@check
def paginators():
    keys = [f"page/{index:04}" for index in range(1100)]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="page/")
    equal([entry["Key"] for page in pages for entry in page["Contents"]], keys)
    pages = s3.get_paginator("list_objects").paginate(Bucket=BUCKET, Prefix="page/", PaginationConfig={"PageSize": 300})
    equal([entry["Key"] for page in pages for entry in page["Contents"]], keys)
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET, Prefix="page/")
    equal([entry["Key"] for page in pages for entry in page["Versions"]], keys)


@check
def delete_objects():
    objects = [{"Key": f"page/{index:04}"} for index in range(1000)]
    deleted = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": objects})
    equal(len(deleted["Deleted"]), 1000)
    assert "Errors" not in deleted, deleted
    quiet = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "none"}], "Quiet": True})
    assert "Deleted" not in quiet, quiet


def by_url(client, operation, data=None, headers=None, **params):
    url = client.generate_presigned_url(operation, Params={"Bucket": BUCKET, **params}, ExpiresIn=60)
    method = "PUT" if data is not None else "GET"
    request = urllib.request.Request(url, data=data, headers=headers or {}, method=method)
    return url, urllib.request.urlopen(request, timeout=30)


@check
def presigned():
    # By itself this client presigns for us-east-1 with signature version 2, which signs the content type.
    text = {"ContentType": "text/plain", "Metadata": {"colour": "light blue"}}
    url, _ = by_url(s3, "put_object", b"by url", {"Content-Type": "text/plain"}, Key="signed url", **text)
    assert "AWSAccessKeyId=" in url, url
    head = s3.head_object(Bucket=BUCKET, Key="signed url")
    equal((head["ContentType"], head["Metadata"]), (text["ContentType"], text["Metadata"]))
    _, got = by_url(s3, "get_object", Key="signed url", ResponseContentType="text/x-other")
    equal((got.read(), got.headers["Content-Type"]), (b"by url", "text/x-other"))
    _, listed = by_url(s3, "list_objects_v2", Prefix="signed")
    assert b"<Key>signed" in listed.read(), "not listed"
    try:
        by_url(s3, "put_object", b"evil", {"Content-Type": "text/html"}, Key="signed url", **text)
    except urllib.error.HTTPError as error:
        equal(error.code, 400)  # The header differs from what the query says.
    else:
        raise AssertionError("accepted with another content type")


def send_form(url, fields, file):
    """Sends a form as a browser does; returns the status, or that of the refusal."""
    boundary = "form-boundary-7d1a"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="cat.png"\r\n\r\n'
    body = "".join(parts).encode() + head.encode() + file + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code


@check
def presigned_posts_of_both_versions():
    newer = boto3.client("s3", config=Config(signature_version="s3v4"))
    for client, field in ((s3, "AWSAccessKeyId"), (newer, "x-amz-signature")):
        conditions = [["content-length-range", 1, 1000], {"x-amz-meta-a": "1"}]
        form = {"Fields": {"x-amz-meta-a": "1"}, "Conditions": conditions}
        post = client.generate_presigned_post(BUCKET, "forms/${filename}", ExpiresIn=60, **form)
        assert field in post["fields"], post["fields"]
        equal(send_form(post["url"], post["fields"], b"meow"), 204)
        got = s3.get_object(Bucket=BUCKET, Key="forms/cat.png")
        equal((got["Body"].read(), got["Metadata"]), (b"meow", {"a": "1"}))
        s3.delete_object(Bucket=BUCKET, Key="forms/cat.png")
        equal(send_form(post["url"], post["fields"], b"x" * 1001), 400)
        equal(send_form(post["url"], {**post["fields"], "x-amz-meta-a": "2"}, b"meow"), 403)
        wrong = "signature" if field == "AWSAccessKeyId" else field
        equal(send_form(post["url"], {**post["fields"], wrong: "0" * 64}, b"meow"), 403)
        refused("NoSuchKey", s3.get_object, Bucket=BUCKET, Key="forms/cat.png")


@check
def presigned_with_version_4():
    client = boto3.client("s3", config=Config(signature_version="s3v4"))
    url, _ = by_url(client, "put_object", b"by url", Key="signed url")
    assert "X-Amz-Signature=" in url, url
    _, got = by_url(client, "get_object", Key="signed url")
    equal(got.read(), b"by url")


@check
def conditions():
    refused("PreconditionFailed", s3.put_object, Bucket=BUCKET, Key="k", Body=b"x", IfNoneMatch="*")
    refused("PreconditionFailed", s3.put_object, Bucket=BUCKET, Key="k", Body=b"x", IfMatch='"' + "0" * 32 + '"')
    etag = s3.head_object(Bucket=BUCKET, Key="k")["ETag"]
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"new", IfMatch=etag)
    refused("304", s3.get_object, Bucket=BUCKET, Key="k", IfNoneMatch=s3.head_object(Bucket=BUCKET, Key="k")["ETag"])


@check
def checksums():
    for algorithm in ["CRC32", "SHA1", "SHA256"]:
        put = s3.put_object(Bucket=BUCKET, Key=algorithm, Body=content(50_000), ChecksumAlgorithm=algorithm)
        head = s3.head_object(Bucket=BUCKET, Key=algorithm, ChecksumMode="ENABLED")
        equal(head[f"Checksum{algorithm}"], put[f"Checksum{algorithm}"])
        got = s3.get_object(Bucket=BUCKET, Key=algorithm, ChecksumMode="ENABLED")
        equal(got["Body"].read(), content(50_000))
    refused("BadDigest", s3.put_object, Bucket=BUCKET, Key="k", Body=b"x", ChecksumSHA256="A" * 43 + "=")


@check
def copies():
    s3.copy_object(Bucket=BUCKET, Key="copied", CopySource={"Bucket": BUCKET, "Key": "signed url"})
    equal(s3.get_object(Bucket=BUCKET, Key="copied")["Body"].read(), b"by url")
    s3.copy({"Bucket": BUCKET, "Key": "multipart"}, BUCKET, "copied-large")
    equal(s3.head_object(Bucket=BUCKET, Key="copied-large")["ContentLength"], 30_000_000)
    large = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20)
    s3.copy({"Bucket": BUCKET, "Key": "multipart"}, BUCKET, "copied-parts", Config=large)
    equal(s3.get_object(Bucket=BUCKET, Key="copied-parts")["Body"].read(), content(30_000_000))


@check
def errors_are_typed():
    refused("NoSuchKey", s3.get_object, Bucket=BUCKET, Key="missing")
    refused("404", s3.head_object, Bucket=BUCKET, Key="missing")
    refused("NoSuchBucket", s3.list_objects_v2, Bucket="boto3-missing")
    refused("BucketNotEmpty", s3.delete_bucket, Bucket=BUCKET)
    try:
        s3.get_object(Bucket=BUCKET, Key="missing")
    except s3.exceptions.NoSuchKey:
        pass


@check
def keys_of_every_kind():
    keys = ["a b", "a+b", "a%20b", "ü/日本", "a//b", "a/../b", "./a", "&<>", "'\"", "~", "a/"]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key="keys/" + key, Body=key.encode())
        equal(s3.get_object(Bucket=BUCKET, Key="keys/" + key)["Body"].read(), key.encode())
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="keys/")["Contents"]
    equal({entry["Key"] for entry in listed}, {"keys/" + key for key in keys})


@check
def versions_by_the_resource():
    s3.create_bucket(Bucket=BUCKET + "-versions")
    bucket = boto3.resource("s3").Bucket(BUCKET + "-versions")
    bucket.Versioning().enable()
    equal(bucket.Versioning().status, "Enabled")
    old = bucket.put_object(Key="k", Body=b"old").version_id
    bucket.put_object(Key="k", Body=b"new")
    bucket.Object("k").delete()
    refused("NoSuchKey", s3.get_object, Bucket=bucket.name, Key="k")
    equal(s3.get_object(Bucket=bucket.name, Key="k", VersionId=old)["Body"].read(), b"old")
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket.name, PaginationConfig={"PageSize": 1})
    entries = [entry for page in pages for entry in page.get("Versions", []) + page.get("DeleteMarkers", [])]
    equal([entry["IsLatest"] for entry in entries], [True, False, False])
    s3.copy_object(Bucket=bucket.name, Key="k", CopySource={"Bucket": bucket.name, "Key": "k", "VersionId": old})
    equal(s3.get_object(Bucket=bucket.name, Key="k")["Body"].read(), b"old")
    bucket.Versioning().suspend()
    equal(bucket.put_object(Key="k", Body=b"null").version_id, "null")
    bucket.object_versions.delete()
    equal(list(bucket.object_versions.all()), [])
    bucket.delete()


@check
def locked_versions_stay():
    name = BUCKET + "-locked"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    s3.put_object_lock_configuration(
        Bucket=name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    equal(s3.get_object_lock_configuration(Bucket=name)["ObjectLockConfiguration"]["Rule"], rule)
    version = s3.put_object(Bucket=name, Key="k", Body=b"x")["VersionId"]
    head = s3.head_object(Bucket=name, Key="k")
    equal(head["ObjectLockMode"], "GOVERNANCE")
    equal(s3.get_object_retention(Bucket=name, Key="k")["Retention"]["Mode"], "GOVERNANCE")
    s3.put_object_legal_hold(Bucket=name, Key="k", LegalHold={"Status": "ON"})
    equal(s3.get_object_legal_hold(Bucket=name, Key="k")["LegalHold"]["Status"], "ON")
    delete = {"Bucket": name, "Key": "k", "VersionId": version}
    refused("AccessDenied", s3.delete_object, **delete, BypassGovernanceRetention=True)
    s3.put_object_legal_hold(Bucket=name, Key="k", LegalHold={"Status": "OFF"})
    refused("AccessDenied", s3.delete_object, **delete)
    s3.delete_object(**delete, BypassGovernanceRetention=True)
    s3.delete_bucket(Bucket=name)


@check
def tags_and_cors():
    tags = {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "b c", "Value": ""}]}
    s3.put_object(Bucket=BUCKET, Key="tagged", Body=b"x", Tagging="z=26")
    equal(s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"], [{"Key": "z", "Value": "26"}])
    s3.put_object_tagging(Bucket=BUCKET, Key="tagged", Tagging=tags)
    equal(s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"], tags["TagSet"])
    equal(s3.get_object(Bucket=BUCKET, Key="tagged")["TagCount"], 2)
    s3.delete_object_tagging(Bucket=BUCKET, Key="tagged")
    equal(s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"], [])
    refused("NoSuchTagSet", s3.get_bucket_tagging, Bucket=BUCKET)
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging=tags)
    equal(s3.get_bucket_tagging(Bucket=BUCKET)["TagSet"], tags["TagSet"])
    s3.delete_bucket_tagging(Bucket=BUCKET)
    refused("NoSuchCORSConfiguration", s3.get_bucket_cors, Bucket=BUCKET)
    rules = [{"AllowedMethods": ["GET"], "AllowedOrigins": ["https://a"], "MaxAgeSeconds": 5, "ExposeHeaders": ["ETag"]}]
    s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": rules})
    equal(s3.get_bucket_cors(Bucket=BUCKET)["CORSRules"], rules)
    s3.delete_bucket_cors(Bucket=BUCKET)


@check
def lifecycle():
    rules = [
        {
            "ID": "logs",
            "Filter": {"And": {"Prefix": "logs/", "Tags": [{"Key": "a", "Value": "1"}], "ObjectSizeLessThan": 1000}},
            "Status": "Enabled",
            "Expiration": {"Days": 30},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 7, "NewerNoncurrentVersions": 3},
        },
        {
            "ID": "uploads",
            "Filter": {"Prefix": ""},
            "Status": "Disabled",
            "Expiration": {"ExpiredObjectDeleteMarker": True},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        },
    ]
    put = {"Bucket": BUCKET, "LifecycleConfiguration": {"Rules": rules}}
    s3.put_bucket_lifecycle_configuration(**put, TransitionDefaultMinimumObjectSize="varies_by_storage_class")
    got = s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)
    equal(got["Rules"], rules)
    equal(got["TransitionDefaultMinimumObjectSize"], "varies_by_storage_class")
    date = datetime.datetime(2099, 1, 1, tzinfo=datetime.timezone.utc)
    rules[:] = [{"ID": "date", "Prefix": "old/", "Status": "Enabled", "Expiration": {"Date": date}}]
    s3.put_bucket_lifecycle_configuration(**put)
    got = s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    equal((got[0]["Prefix"], got[0]["Expiration"]["Date"]), ("old/", date))
    rules[0]["Expiration"] = {"Days": 0}
    refused("InvalidArgument", s3.put_bucket_lifecycle_configuration, **put)
    rules[0].update(Expiration={"Days": 1}, Transitions=[{"Days": 1, "StorageClass": "GLACIER"}])
    refused("InvalidStorageClass", s3.put_bucket_lifecycle_configuration, **put)
    s3.delete_bucket_lifecycle(Bucket=BUCKET)
    refused("NoSuchLifecycleConfiguration", s3.get_bucket_lifecycle_configuration, Bucket=BUCKET)


@check
def encryption():
    name = f"{BUCKET}-encrypted"
    s3.create_bucket(Bucket=name)
    refused("ServerSideEncryptionConfigurationNotFoundError", s3.get_bucket_encryption, Bucket=name)
    data = content(20_000_000)
    ours, theirs = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"k" * 32}, {"ServerSideEncryption": "aws:kms"}
    for writing, reading in (({"ServerSideEncryption": "AES256"}, {}), (theirs, {}), (ours, ours)):
        config = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20)
        s3.upload_fileobj(io.BytesIO(data), name, "large", ExtraArgs=writing, Config=config)
        s3.put_object(Bucket=name, Key="small", Body=data[:1000], **writing)
        head = s3.head_object(Bucket=name, Key="large", **reading)
        equal(head["ContentLength"], len(data))
        equal(head.get("ServerSideEncryption"), writing.get("ServerSideEncryption"))
        into = io.BytesIO()
        s3.download_fileobj(name, "large", into, ExtraArgs=reading)
        assert into.getvalue() == data, "other bytes"
        equal(s3.get_object(Bucket=name, Key="small", **reading)["Body"].read(), data[:1000])
        part = s3.get_object(Bucket=name, Key="large", Range="bytes=9000000-9000099", **reading)
        equal(part["Body"].read(), data[9_000_000:9_000_100])
    refused("InvalidRequest", s3.get_object, Bucket=name, Key="small")
    refused("AccessDenied", s3.get_object, Bucket=name, Key="small", **{**ours, "SSECustomerKey": b"x" * 32})
    copied = {"CopySource": f"{name}/small", "CopySourceSSECustomerAlgorithm": "AES256", "CopySourceSSECustomerKey": b"k" * 32}
    s3.copy_object(Bucket=name, Key="copy", ServerSideEncryption="AES256", **copied)
    equal(s3.get_object(Bucket=name, Key="copy")["Body"].read(), data[:1000])
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}
    s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})
    equal(s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"], [rule])
    equal(s3.put_object(Bucket=name, Key="default", Body=b"x")["ServerSideEncryption"], "AES256")
    s3.delete_bucket_encryption(Bucket=name)
    boto3.resource("s3").Bucket(name).objects.all().delete()
    s3.delete_bucket(Bucket=name)


@check
def renames_and_appends():
    s3.put_object(Bucket=BUCKET, Key="log", Body=b"first")
    for more in [b" second", content(50_000), b" third"]:
        size = s3.head_object(Bucket=BUCKET, Key="log")["ContentLength"]
        put = s3.put_object(Bucket=BUCKET, Key="log", Body=more, WriteOffsetBytes=size)
        equal(put["Size"], size + len(more))
    refused("InvalidWriteOffset", s3.put_object, Bucket=BUCKET, Key="log", Body=b"x", WriteOffsetBytes=5)
    s3.rename_object(Bucket=BUCKET, Key="log.1", RenameSource=f"{BUCKET}/log")
    whole = s3.get_object(Bucket=BUCKET, Key="log.1", ChecksumMode="ENABLED")
    equal(whole["Body"].read(), b"first second" + content(50_000) + b" third")
    refused("NoSuchKey", s3.rename_object, Bucket=BUCKET, Key="log.2", RenameSource="log")
    s3.put_object(Bucket=BUCKET, Key="log", Body=b"new")
    taken = {"Bucket": BUCKET, "Key": "log.1", "RenameSource": "log", "DestinationIfNoneMatch": "*"}
    refused("PreconditionFailed", s3.rename_object, **taken)
    twice = {"Bucket": BUCKET, "Key": "log.2", "RenameSource": "log.1", "ClientToken": "once"}
    s3.rename_object(**twice)
    s3.rename_object(**twice)
    refused("IdempotencyParameterMismatch", s3.rename_object, **{**twice, "Key": "log.3"})


@check
def annotations_of_an_object():
    s3.put_object(Bucket=BUCKET, Key="annotated", Body=b"x")
    note = {"Bucket": BUCKET, "Key": "annotated", "AnnotationName": "note"}
    etag = s3.put_object_annotation(**note, AnnotationPayload="ein Text, süß".encode())["ETag"]
    got = s3.get_object_annotation(**note, ChecksumMode="ENABLED")
    equal((got["AnnotationPayload"].read().decode(), got["ETag"]), ("ein Text, süß", etag))
    s3.put_object_annotation(**{**note, "AnnotationName": "other"}, AnnotationPayload=b"y" * 100_000)
    listed = s3.list_object_annotations(Bucket=BUCKET, Key="annotated", MaxAnnotationResults=1)
    equal((listed["Annotations"][0]["AnnotationName"], listed["Annotations"][0]["ETag"]), ("note", etag))
    rest = {"ContinuationToken": listed["NextContinuationToken"]}
    listed = s3.list_object_annotations(Bucket=BUCKET, Key="annotated", **rest)
    equal([(entry["AnnotationName"], entry["Size"]) for entry in listed["Annotations"]], [("other", 100_000)])
    equal(got["ServerSideEncryption"], "AES256")
    for key, directive, count in [("taken", "COPY", 2), ("bare", "EXCLUDE", 0)]:
        source = {"Bucket": BUCKET, "Key": "annotated"}
        s3.copy_object(Bucket=BUCKET, Key=key, CopySource=source, AnnotationDirective=directive)
        equal(s3.list_object_annotations(Bucket=BUCKET, Key=key)["AnnotationCount"], count)
    s3.delete_object_annotation(**note)
    refused("NoSuchAnnotation", s3.get_object_annotation, **note)
    refused("UnsupportedMediaType", s3.put_object_annotation, **note, AnnotationPayload=b"\xff")


@check
def probes_of_a_bare_bucket():
    refused("NoSuchBucketPolicy", s3.get_bucket_policy, Bucket=BUCKET)
    refused("NoSuchLifecycleConfiguration", s3.get_bucket_lifecycle_configuration, Bucket=BUCKET)
    refused("NoSuchPublicAccessBlockConfiguration", s3.get_public_access_block, Bucket=BUCKET)
    equal(s3.get_bucket_acl(Bucket=BUCKET)["Grants"][0]["Permission"], "FULL_CONTROL")
    equal(s3.get_bucket_request_payment(Bucket=BUCKET)["Payer"], "BucketOwner")
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=BUCKET)
    assert not s3.list_bucket_metrics_configurations(Bucket=BUCKET)["IsTruncated"]


@check
def lists_of_buckets_and_objects():
    refused("AccessControlListNotSupported", s3.put_object_acl, Bucket=BUCKET, Key="log", ACL="public-read")
    owned = {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
    s3.put_bucket_ownership_controls(Bucket=BUCKET, OwnershipControls=owned)
    equal(s3.get_bucket_ownership_controls(Bucket=BUCKET)["OwnershipControls"], owned)
    s3.put_object(Bucket=BUCKET, Key="public", Body=b"for everybody", ACL="public-read")
    anybody = boto3.client("s3", config=Config(signature_version=UNSIGNED))
    equal(anybody.get_object(Bucket=BUCKET, Key="public")["Body"].read(), b"for everybody")
    shown = s3.get_object_acl(Bucket=BUCKET, Key="public")
    everybody = {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}
    equal(shown["Grants"][1], {"Grantee": everybody, "Permission": "READ"})
    shown["Grants"].pop()
    policy = {"Owner": shown["Owner"], "Grants": shown["Grants"]}
    s3.put_object_acl(Bucket=BUCKET, Key="public", AccessControlPolicy=policy)
    refused("AccessDenied", anybody.get_object, Bucket=BUCKET, Key="public")
    s3.put_bucket_acl(Bucket=BUCKET, GrantRead='uri="http://acs.amazonaws.com/groups/global/AllUsers"')
    assert anybody.list_objects_v2(Bucket=BUCKET)["KeyCount"]
    refused("InvalidArgument", s3.put_bucket_acl, Bucket=BUCKET, GrantRead='id="nobody-of-this-name"')
    s3.put_bucket_acl(Bucket=BUCKET, ACL="private")
    refused("AccessDenied", anybody.list_objects_v2, Bucket=BUCKET)
    s3.delete_bucket_ownership_controls(Bucket=BUCKET)


@check
def websites():
    pages = {"IndexDocument": {"Suffix": "index.html"}, "ErrorDocument": {"Key": "oops.html"},
             "RoutingRules": [{"Condition": {"KeyPrefixEquals": "old/"},
                               "Redirect": {"ReplaceKeyPrefixWith": "new/", "HttpRedirectCode": "302"}}]}
    s3.put_bucket_website(Bucket=BUCKET, WebsiteConfiguration=pages)
    found = s3.get_bucket_website(Bucket=BUCKET)
    equal({name: found[name] for name in pages}, pages)
    s3.put_object(Bucket=BUCKET, Key="moved", WebsiteRedirectLocation="/new/")
    equal(s3.head_object(Bucket=BUCKET, Key="moved")["WebsiteRedirectLocation"], "/new/")
    s3.delete_bucket_website(Bucket=BUCKET)
    refused("NoSuchWebsiteConfiguration", s3.get_bucket_website, Bucket=BUCKET)


@check
def virtual_host_style_by_the_resource():
    bucket = boto3.resource("s3").Bucket(BUCKET)
    bucket.objects.all().delete()
    equal(list(bucket.objects.all()), [])
    bucket.delete()


main("boto3")
