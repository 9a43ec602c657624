"""Command-line tools: rclone, s5cmd, s3cmd, restic. Which one is the first argument."""

import json
import os
import shutil
import sys
import time

from common import ACCESS_KEY, ENDPOINT, HOST, SECRET_KEY, check, content, equal, main, make_tree, read, run, tree, write

TOOL = sys.argv[1]


def only(tool):
    """Registers the checks of one tool."""
    return check if TOOL == tool else lambda function: function


# rclone ---------------------------------------------------------------------------------------------------


@only("rclone")
def copy_and_check():
    make_tree("up")
    run("rclone", "mkdir", "fluffy:rclone")
    run("rclone", "copy", "up", "fluffy:rclone/tree")
    run("rclone", "check", "up", "fluffy:rclone/tree")
    run("rclone", "check", "--download", "up", "fluffy:rclone/tree")


@only("rclone")
def copy_back():
    run("rclone", "copy", "fluffy:rclone/tree", "down")
    equal(tree("down"), tree("up"))


@only("rclone")
def copy_in_parts():
    write("large", content(30_000_000))
    run("rclone", "copy", "--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M", "large", "fluffy:rclone/parts")
    equal(run("rclone", "cat", "fluffy:rclone/parts/large", "--count", "5"), run("head", "-c", "5", "large"))
    run("rclone", "check", "--download", ".", "fluffy:rclone/parts", "--include", "/large")


@only("rclone")
def sync_deletes():
    shutil.rmtree("up/dir")
    run("rclone", "sync", "up", "fluffy:rclone/tree")
    listed = run("rclone", "lsf", "-R", "fluffy:rclone/tree").split()
    equal(sorted(listed), ["chunks", "empty", "inline", "large", "small.txt"])


@only("rclone")
def size_and_server_side_copy():
    assert "5" in run("rclone", "size", "fluffy:rclone/tree")
    run("rclone", "copy", "fluffy:rclone/tree", "fluffy:rclone/again")
    run("rclone", "check", "fluffy:rclone/tree", "fluffy:rclone/again")
    run("rclone", "moveto", "fluffy:rclone/again/large", "fluffy:rclone/moved")
    equal(run("rclone", "lsf", "fluffy:rclone/moved").strip(), "moved")


@only("rclone")
def modification_times_are_kept():
    os.utime("up/small.txt", (1_000_000_000, 1_000_000_000))
    run("rclone", "sync", "up", "fluffy:rclone/tree")
    assert "2001-09-09" in run("rclone", "lsl", "fluffy:rclone/tree/small.txt")


@only("rclone")
def versions_come_back():
    run("rclone", "mkdir", "fluffy:rclone-versions")
    run("rclone", "backend", "versioning", "fluffy:rclone-versions", "Enabled")
    assert "Enabled" in run("rclone", "backend", "versioning", "fluffy:rclone-versions")
    for text in [b"old", b"newer"]:
        write("versioned/file.txt", text)
        run("rclone", "copy", "--ignore-times", "versioned", "fluffy:rclone-versions")
        time.sleep(1.1)  # Versions are named by whole seconds.
    run("rclone", "deletefile", "fluffy:rclone-versions/file.txt")
    equal(run("rclone", "lsf", "fluffy:rclone-versions").strip(), "")
    old = run("rclone", "lsf", "--s3-versions", "fluffy:rclone-versions").split()
    equal(len(old), 2)
    contents = {run("rclone", "cat", "--s3-versions", f"fluffy:rclone-versions/{name}") for name in old}
    equal(contents, {"old", "newer"})
    run("rclone", "backend", "cleanup-hidden", "fluffy:rclone-versions")
    equal(run("rclone", "lsf", "--s3-versions", "fluffy:rclone-versions").strip(), "")
    run("rclone", "purge", "fluffy:rclone-versions")


@only("rclone")
def purge():
    run("rclone", "purge", "fluffy:rclone")
    assert "rclone" not in run("rclone", "lsd", "fluffy:")


# s5cmd ----------------------------------------------------------------------------------------------------


def s5(*args, **options):
    return run("s5cmd", "--endpoint-url", ENDPOINT, *args, **options)


@only("s5cmd")
def mb_cp_ls():
    s5("mb", "s3://s5cmd")
    make_tree("up")
    s5("cp", "up/*", "s3://s5cmd/tree/")
    listed = s5("ls", "s3://s5cmd/tree/*")
    assert "dir/deep/er/file+plus&and=" in listed, listed
    s5("cp", "s3://s5cmd/tree/*", "down/")
    equal(tree("down"), tree("up"))


@only("s5cmd")
def cp_in_parts():
    write("large", content(40_000_000))
    s5("cp", "--part-size", "5", "large", "s3://s5cmd/large")
    s5("cp", "s3://s5cmd/large", "large.back")
    assert read("large.back") == read("large"), "other bytes"


@only("s5cmd")
def sync():
    shutil.rmtree("up/dir")
    s5("sync", "--delete", "up/", "s3://s5cmd/tree/")
    assert "dir/" not in s5("ls", "s3://s5cmd/tree/*")


@only("s5cmd")
def du_cat_mv():
    assert "objects" in s5("du", "s3://s5cmd/tree/*")
    equal(s5("cat", "s3://s5cmd/tree/small.txt"), read("up/small.txt").decode(errors="replace"))
    s5("mv", "s3://s5cmd/large", "s3://s5cmd/moved")
    assert "moved" in s5("ls", "s3://s5cmd")


@only("s5cmd")
def rm_and_rb():
    s5("rm", "s3://s5cmd/*")
    s5("rb", "s3://s5cmd")


# s3cmd ----------------------------------------------------------------------------------------------------


def s3cmd(*args, **options):
    base = ["s3cmd", "--no-ssl", f"--host={HOST}", f"--host-bucket={HOST}", "--no-progress"]
    return run(*base, f"--access_key={ACCESS_KEY}", f"--secret_key={SECRET_KEY}", *args, **options)


@only("s3cmd")
def make_put_get():
    s3cmd("mb", "s3://s3cmd")
    write("hello.txt", b"hello world")
    s3cmd("put", "hello.txt", "s3://s3cmd/hello.txt")
    s3cmd("get", "s3://s3cmd/hello.txt", "back.txt")
    equal(read("back.txt"), b"hello world")
    assert "s3://s3cmd/hello.txt" in s3cmd("ls", "s3://s3cmd")


@only("s3cmd")
def put_in_parts():
    write("large", content(20_000_000))
    s3cmd("put", "--multipart-chunk-size-mb=5", "large", "s3://s3cmd/large")
    s3cmd("get", "s3://s3cmd/large", "large.back")
    assert read("large.back") == read("large"), "other bytes"


@only("s3cmd")
def sync_both_ways():
    make_tree("up")
    s3cmd("sync", "up/", "s3://s3cmd/tree/")
    os.makedirs("down", exist_ok=True)
    s3cmd("sync", "s3://s3cmd/tree/", "down/")
    equal(tree("down"), tree("up"))


@only("s3cmd")
def info_copy_move_delete():
    assert "MD5 sum" in s3cmd("info", "s3://s3cmd/hello.txt")
    s3cmd("cp", "s3://s3cmd/hello.txt", "s3://s3cmd/copied")
    s3cmd("mv", "s3://s3cmd/copied", "s3://s3cmd/moved")
    s3cmd("del", "s3://s3cmd/moved")
    assert "moved" not in s3cmd("ls", "s3://s3cmd")


@only("s3cmd")
def cors():
    write("cors.xml", b"""<CORSConfiguration><CORSRule><AllowedOrigin>https://a</AllowedOrigin>
        <AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>""")
    s3cmd("setcors", "cors.xml", "s3://s3cmd")
    assert "https://a" in s3cmd("info", "s3://s3cmd")
    s3cmd("delcors", "s3://s3cmd")
    assert "https://a" not in s3cmd("info", "s3://s3cmd")


@only("s3cmd")
def lifecycle():
    write("rules.xml", b"""<LifecycleConfiguration><Rule><ID>tmp</ID><Filter><Prefix>tmp/</Prefix></Filter>
        <Status>Enabled</Status><Expiration><Days>5</Days></Expiration></Rule></LifecycleConfiguration>""")
    s3cmd("setlifecycle", "rules.xml", "s3://s3cmd")
    assert "<Days>5</Days>" in s3cmd("getlifecycle", "s3://s3cmd")
    s3cmd("expire", "--expiry-days=7", "--expiry-prefix=old/", "s3://s3cmd")
    shown = s3cmd("getlifecycle", "s3://s3cmd")
    assert "<Days>7</Days>" in shown and "old/" in shown, shown
    s3cmd("dellifecycle", "s3://s3cmd")


@only("s3cmd")
def setacl_to_what_holds_anyway():
    s3cmd("setacl", "--acl-private", "s3://s3cmd", "s3://s3cmd/hello.txt")
    assert "FULL_CONTROL" in s3cmd("info", "s3://s3cmd/hello.txt")


@only("s3cmd")
def lists_that_let_others_in():
    import boto3
    import urllib.error
    import urllib.request

    def status(key):
        try:
            return urllib.request.urlopen(f"{ENDPOINT}/s3cmd/{key}").status
        except urllib.error.HTTPError as error:
            return error.code

    owned = {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}
    boto3.client("s3").put_bucket_ownership_controls(Bucket="s3cmd", OwnershipControls=owned)
    equal(status("hello.txt"), 403)
    s3cmd("setacl", "--acl-public", "s3://s3cmd/hello.txt")
    equal(status("hello.txt"), 200)
    assert "*anon*: READ" in s3cmd("info", "s3://s3cmd/hello.txt")
    s3cmd("put", "--acl-public", "hello.txt", "s3://s3cmd/public.txt")
    equal(status("public.txt"), 200)
    s3cmd("put", "--acl-public", "--multipart-chunk-size-mb=5", "large", "s3://s3cmd/public.large")
    equal(status("public.large"), 200)
    s3cmd("setacl", "--acl-private", "s3://s3cmd/hello.txt", "s3://s3cmd/public.txt")
    equal((status("hello.txt"), status("public.txt")), (403, 403))
    s3cmd("setacl", "--acl-public", "s3://s3cmd")
    assert "*anon*: READ" in s3cmd("info", "s3://s3cmd")
    equal(status(""), 200)
    s3cmd("setacl", "--acl-private", "s3://s3cmd")
    equal(status(""), 403)


@only("s3cmd")
def website():
    s3cmd("ws-create", "--ws-index=index.html", "--ws-error=oops.html", "s3://s3cmd")
    shown = s3cmd("ws-info", "s3://s3cmd")
    assert "index.html" in shown and "oops.html" in shown, shown
    s3cmd("ws-delete", "s3://s3cmd")
    assert "index.html" not in s3cmd("ws-info", "s3://s3cmd", expect=None)


@only("s3cmd")
def du_and_remove():
    assert "s3://s3cmd" in s3cmd("du", "s3://s3cmd")
    s3cmd("del", "--recursive", "--force", "s3://s3cmd")
    s3cmd("rb", "s3://s3cmd")


# restic ---------------------------------------------------------------------------------------------------

os.environ.update(RESTIC_REPOSITORY=f"s3:{ENDPOINT}/restic", RESTIC_PASSWORD="a password for a test")


@only("restic")
def init_and_backup():
    run("restic", "init")
    make_tree("data")
    run("restic", "backup", "data")
    make_tree("data/second", seed=2)
    run("restic", "backup", "data")
    equal(len(json.loads(run("restic", "snapshots", "--json"))), 2)


@only("restic")
def check_all_data():
    run("restic", "check", "--read-data")


@only("restic")
def restore():
    run("restic", "restore", "latest", "--target", "restored")
    whole = "restored/" + os.path.abspath("data").lstrip("/")  # Older versions keep the whole path.
    run("diff", "-r", "data", whole if os.path.exists(whole) else "restored/data")


@only("restic")
def forget_and_prune():
    run("restic", "forget", "--keep-last", "1", "--prune")
    run("restic", "check")


main(TOOL)
