"""The aws command line: `s3` as people use it, and `s3api`."""

import json
import shutil
import subprocess
import urllib.request

from common import check, content, equal, fails, main, make_tree, read, run, tree, write

BUCKET = "aws-cli"
# What version 1 lacks: --no-overwrite, and presigning with signature version 4 by itself.
IS_TWO = run("aws", "--version").startswith("aws-cli/2")


def s3(*args, **options):
    return run("aws", "s3", *args, **options)


def api(*args, **options):
    text = run("aws", "s3api", *args, "--output", "json", **options)
    return json.loads(text) if text.strip() else {}


@check
def mb_and_ls():
    s3("mb", f"s3://{BUCKET}")
    assert BUCKET in s3("ls")


@check
def cp_up_and_down():
    write("hello.txt", b"hello world")
    s3("cp", "hello.txt", f"s3://{BUCKET}/hello.txt")
    s3("cp", f"s3://{BUCKET}/hello.txt", "back.txt")
    equal(read("back.txt"), b"hello world")
    assert "hello.txt" in s3("ls", f"s3://{BUCKET}/")


@check
def cp_of_a_large_file_in_parts():
    write("large", content(40_000_000))
    s3("cp", "large", f"s3://{BUCKET}/large")
    s3("cp", f"s3://{BUCKET}/large", "large.back")
    equal(read("large.back"), read("large"))


@check
def cp_from_and_to_a_pipe():
    run("aws", "s3", "cp", "-", f"s3://{BUCKET}/piped", input=b"through a pipe")
    equal(s3("cp", f"s3://{BUCKET}/piped", "-"), "through a pipe")


@check
def sync_both_ways():
    expected = make_tree("up")
    s3("sync", "up", f"s3://{BUCKET}/tree/")
    s3("sync", f"s3://{BUCKET}/tree/", "down")
    equal(tree("down"), expected)
    equal(s3("sync", "up", f"s3://{BUCKET}/tree/").strip(), "")


@check
def sync_deletes_what_is_gone():
    shutil.rmtree("up/dir")
    s3("sync", "up", f"s3://{BUCKET}/tree/", "--delete")
    assert "dir/" not in s3("ls", f"s3://{BUCKET}/tree/", "--recursive")


@check
def sync_between_buckets_with_filters():
    s3("mb", f"s3://{BUCKET}-mirror")
    s3("sync", f"s3://{BUCKET}/tree/", f"s3://{BUCKET}-mirror/", "--exclude", "*", "--include", "in*")
    equal(s3("ls", f"s3://{BUCKET}-mirror", "--recursive").split()[-1], "inline")
    s3("sync", f"s3://{BUCKET}/tree/", f"s3://{BUCKET}-mirror/", "--size-only")
    s3("sync", f"s3://{BUCKET}-mirror/", "mirror")
    equal(tree("mirror"), tree("up"))
    write("mirror/inline", content(16_384, 9))  # As long as before, and newer.
    equal(s3("sync", "mirror", f"s3://{BUCKET}-mirror/", "--size-only").strip(), "")
    assert "inline" in s3("sync", "mirror", f"s3://{BUCKET}-mirror/", "--dryrun")
    assert "inline" in s3("sync", "mirror", f"s3://{BUCKET}-mirror/", "--delete")
    s3("rb", f"s3://{BUCKET}-mirror", "--force")


@check
def copy_and_move_on_the_server():
    s3("cp", f"s3://{BUCKET}/large", f"s3://{BUCKET}/large-copy")
    s3("mv", f"s3://{BUCKET}/large-copy", f"s3://{BUCKET}/moved")
    s3("cp", f"s3://{BUCKET}/moved", "moved")
    equal(read("moved"), read("large"))
    fails("aws", "s3", "ls", f"s3://{BUCKET}/large-copy")


def no_overwrite():
    """Nothing that is there is replaced, by any way to write; and of many at once only one writes."""
    write("other", content(40_000_000, 2))
    write("fresh/large", content(40_000_000, 3))
    for there, new in [("hello.txt", "other"), ("large", "other")]:
        before = api("head-object", "--bucket", BUCKET, "--key", there)["ETag"]
        s3("cp", new, f"s3://{BUCKET}/{there}", "--no-overwrite")
        s3("cp", f"s3://{BUCKET}/tree/inline", f"s3://{BUCKET}/{there}", "--no-overwrite")
        s3("mv", f"s3://{BUCKET}/tree/chunks", f"s3://{BUCKET}/{there}", "--no-overwrite")
        equal(api("head-object", "--bucket", BUCKET, "--key", there)["ETag"], before)
    api("head-object", "--bucket", BUCKET, "--key", "tree/chunks")  # It was not moved, and is still there.
    write("fresh/hello.txt", b"newer")
    s3("sync", "fresh", f"s3://{BUCKET}/", "--no-overwrite")
    equal(s3("cp", f"s3://{BUCKET}/hello.txt", "-"), "hello world")
    s3("cp", "fresh", f"s3://{BUCKET}/once/", "--recursive", "--no-overwrite")
    s3("cp", f"s3://{BUCKET}/once/large", "large.once")
    equal(read("large.once"), read("fresh/large"))
    s3("mb", "s3://raced")
    api("put-bucket-versioning", "--bucket", "raced", "--versioning-configuration", "Status=Enabled")
    copies = [["aws", "s3", "cp", path, "s3://raced/key", "--no-overwrite"] for path in 4 * ["other", "fresh/hello.txt"]]
    racing = [subprocess.Popen(copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for copy in copies]
    for process in racing:
        process.wait(120)
    equal(len(api("list-object-versions", "--bucket", "raced")["Versions"]), 1)


if IS_TWO:
    check(no_overwrite)


@check
def presign():
    url = s3("presign", f"s3://{BUCKET}/hello.txt").strip()
    assert ("X-Amz-Signature=" if IS_TWO else "AWSAccessKeyId=") in url, url
    equal(urllib.request.urlopen(url, timeout=30).read(), b"hello world")
    run("aws", "configure", "set", "default.s3.signature_version", "s3v4")
    url = s3("presign", f"s3://{BUCKET}/hello.txt").strip()
    assert "X-Amz-Signature=" in url, url
    equal(urllib.request.urlopen(url, timeout=30).read(), b"hello world")


@check
def s3api_objects():
    put = api("put-object", "--bucket", BUCKET, "--key", "k", "--body", "hello.txt", "--metadata", "colour=blue")
    head = api("head-object", "--bucket", BUCKET, "--key", "k", "--checksum-mode", "ENABLED")
    equal(head["Metadata"], {"colour": "blue"})
    equal(head["ETag"], put["ETag"])
    equal(head["ContentLength"], 11)
    got = api("get-object", "--bucket", BUCKET, "--key", "k", "--range", "bytes=0-4", "part.txt")
    equal(got["ContentRange"], "bytes 0-4/11")
    equal(read("part.txt"), b"hello")
    api("copy-object", "--bucket", BUCKET, "--key", "copied", "--copy-source", f"{BUCKET}/k")
    attributes = api(
        "get-object-attributes", "--bucket", BUCKET, "--key", "k", "--object-attributes", "ETag", "ObjectSize", "Checksum"
    )
    equal(attributes["ObjectSize"], 11)
    api("delete-object", "--bucket", BUCKET, "--key", "copied")


@check
def s3api_conditions():
    said = fails("aws", "s3api", "put-object", "--bucket", BUCKET, "--key", "k", "--if-none-match", "*")
    assert "PreconditionFailed" in said, said
    said = fails("aws", "s3api", "head-object", "--bucket", BUCKET, "--key", "missing")
    assert "404" in said, said


@check
def s3api_checksums():
    for algorithm in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]:
        try:
            put = api(
                "put-object", "--bucket", BUCKET, "--key", algorithm, "--body", "hello.txt", "--checksum-algorithm", algorithm
            )
        except AssertionError as error:
            if "Missing Dependency" in str(error):
                continue  # The client itself lacks this algorithm.
            raise
        assert f"Checksum{algorithm}" in put, put


@check
def s3api_listings():
    page = api("list-objects-v2", "--bucket", BUCKET, "--delimiter", "/")
    assert any(entry["Prefix"] == "tree/" for entry in page["CommonPrefixes"]), page
    paged = api("list-objects-v2", "--bucket", BUCKET, "--page-size", "2")
    whole = api("list-objects-v2", "--bucket", BUCKET)
    equal([e["Key"] for e in paged["Contents"]], [e["Key"] for e in whole["Contents"]])
    first = api("list-objects", "--bucket", BUCKET, "--prefix", "tree/")
    assert first["Contents"], first
    versions = api("list-object-versions", "--bucket", BUCKET, "--prefix", "k")
    equal(versions["Versions"][0]["VersionId"], "null")


@check
def s3api_multipart():
    upload = api("create-multipart-upload", "--bucket", BUCKET, "--key", "parts")["UploadId"]
    write("part", content(5 << 20))
    part = api(
        "upload-part", "--bucket", BUCKET, "--key", "parts", "--upload-id", upload, "--part-number", "1", "--body", "part"
    )
    listed = api("list-parts", "--bucket", BUCKET, "--key", "parts", "--upload-id", upload)
    equal(listed["Parts"][0]["ETag"], part["ETag"])
    uploads = api("list-multipart-uploads", "--bucket", BUCKET)
    equal(uploads["Uploads"][0]["UploadId"], upload)
    whole = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    api(
        "complete-multipart-upload", "--bucket", BUCKET, "--key", "parts", "--upload-id", upload,
        "--multipart-upload", json.dumps(whole),
    )  # fmt: skip
    equal(api("head-object", "--bucket", BUCKET, "--key", "parts")["ContentLength"], 5 << 20)
    aborted = api("create-multipart-upload", "--bucket", BUCKET, "--key", "parts")["UploadId"]
    api("abort-multipart-upload", "--bucket", BUCKET, "--key", "parts", "--upload-id", aborted)


@check
def s3api_buckets():
    api("head-bucket", "--bucket", BUCKET)
    equal(api("get-bucket-location", "--bucket", BUCKET)["LocationConstraint"], None)
    equal(api("get-bucket-versioning", "--bucket", BUCKET), {})
    assert any(bucket["Name"] == BUCKET for bucket in api("list-buckets")["Buckets"])


@check
def s3api_delete_objects():
    whole = {"Objects": [{"Key": "k"}, {"Key": "parts"}, {"Key": "missing"}]}
    deleted = api("delete-objects", "--bucket", BUCKET, "--delete", json.dumps(whole))
    equal(len(deleted["Deleted"]), 3)


@check
def rm_and_rb():
    s3("rm", f"s3://{BUCKET}/hello.txt")
    s3("rb", f"s3://{BUCKET}", "--force")
    assert BUCKET not in s3("ls")


main("aws cli 2" if IS_TWO else "aws cli")
