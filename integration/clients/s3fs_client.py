"""s3fs: a file system for Python's data tools."""

import s3fs

from common import ENDPOINT, check, content, equal, main

fs = s3fs.S3FileSystem(endpoint_url=ENDPOINT)


@check
def write_and_read():
    fs.mkdir("s3fs-client")
    with fs.open("s3fs-client/dir/file", "wb") as file:
        file.write(content(100_000))
    with fs.open("s3fs-client/dir/file", "rb") as file:
        file.seek(50_000)
        equal(file.read(10), content(100_000)[50_000:50_010])
    equal(fs.cat("s3fs-client/dir/file"), content(100_000))


@check
def write_in_parts():
    with fs.open("s3fs-client/large", "wb", block_size=5 << 20) as file:
        for index in range(4):
            file.write(content(4_000_000, index))
    equal(fs.info("s3fs-client/large")["size"], 16_000_000)
    equal(fs.cat_file("s3fs-client/large", start=8_000_000, end=8_000_010), content(4_000_000, 2)[:10])


@check
def list_and_find():
    equal(fs.find("s3fs-client"), ["s3fs-client/dir/file", "s3fs-client/large"])
    fs.invalidate_cache()
    equal(sorted(fs.ls("s3fs-client", detail=False)), ["s3fs-client/dir", "s3fs-client/large"])
    equal(fs.glob("s3fs-client/*/f*"), ["s3fs-client/dir/file"])


@check
def copy_move_remove():
    fs.copy("s3fs-client/large", "s3fs-client/copied")
    fs.mv("s3fs-client/copied", "s3fs-client/moved")
    assert fs.exists("s3fs-client/moved") and not fs.exists("s3fs-client/copied")
    fs.rm("s3fs-client", recursive=True)
    fs.invalidate_cache()
    assert not fs.exists("s3fs-client")


main("s3fs")
