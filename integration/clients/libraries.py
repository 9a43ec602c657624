"""Data libraries: pyarrow and the minio client. Which one is the first argument."""

import io
import sys
from datetime import timedelta

from common import ACCESS_KEY, ENDPOINT, HOST, SECRET_KEY, check, content, equal, main

LIBRARY = sys.argv[1]

if LIBRARY == "pyarrow":
    import pyarrow
    import pyarrow.dataset
    import pyarrow.fs
    import pyarrow.parquet

    fs = pyarrow.fs.S3FileSystem(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, endpoint_override=HOST, scheme="http", allow_bucket_creation=True
    )
    table = pyarrow.table({"year": [2023, 2024, 2024, 2025] * 1000, "value": list(range(4000))})

    @check
    def files_and_directories():
        fs.create_dir("pyarrow/dir")
        with fs.open_output_stream("pyarrow/dir/file") as out:
            out.write(content(12_000_000))
        with fs.open_input_file("pyarrow/dir/file") as file:
            equal(file.size(), 12_000_000)
            assert file.read() == content(12_000_000), "other bytes"
            file.seek(5_000_000)
            equal(file.read(10), content(12_000_000)[5_000_000:5_000_010])
        infos = fs.get_file_info(pyarrow.fs.FileSelector("pyarrow", recursive=True))
        assert any(info.path == "pyarrow/dir/file" for info in infos), infos

    @check
    def dataset_with_partitions():
        pyarrow.dataset.write_dataset(
            table, "pyarrow/set", filesystem=fs, format="parquet", partitioning=["year"], partitioning_flavor="hive"
        )
        found = pyarrow.dataset.dataset("pyarrow/set", filesystem=fs, partitioning="hive")
        equal(found.count_rows(), 4000)
        filtered = found.to_table(filter=pyarrow.dataset.field("year") == 2024)
        equal(filtered.num_rows, 2000)

    @check
    def parquet_by_column():
        pyarrow.parquet.write_table(table, "pyarrow/one.parquet", filesystem=fs)
        equal(pyarrow.parquet.read_table("pyarrow/one.parquet", filesystem=fs, columns=["value"]).num_rows, 4000)

    @check
    def copy_move_delete():
        fs.copy_file("pyarrow/one.parquet", "pyarrow/two.parquet")
        fs.move("pyarrow/two.parquet", "pyarrow/three.parquet")
        fs.delete_file("pyarrow/three.parquet")
        fs.delete_dir("pyarrow/set")
        equal(fs.get_file_info("pyarrow/set").type, pyarrow.fs.FileType.NotFound)


if LIBRARY == "minio":
    from minio import Minio
    from minio.commonconfig import CopySource
    from minio.deleteobjects import DeleteObject

    client = Minio(HOST, access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False)

    @check
    def put_and_get():
        client.make_bucket("minio-client")
        assert client.bucket_exists("minio-client")
        client.put_object("minio-client", "k", io.BytesIO(b"hello"), 5, metadata={"x-amz-meta-a": "b"})
        equal(client.get_object("minio-client", "k").read(), b"hello")
        equal(client.stat_object("minio-client", "k").metadata["x-amz-meta-a"], "b")

    @check
    def parts_of_unknown_length():
        client.put_object("minio-client", "stream", io.BytesIO(content(12_000_000)), -1, part_size=5 << 20)
        assert client.get_object("minio-client", "stream").read() == content(12_000_000), "other bytes"
        equal(client.get_object("minio-client", "stream", offset=100, length=5).read(), content(12_000_000)[100:105])

    @check
    def list_and_copy():
        client.copy_object("minio-client", "copied", CopySource("minio-client", "k"))
        names = [entry.object_name for entry in client.list_objects("minio-client", recursive=True)]
        equal(names, ["copied", "k", "stream"])

    @check
    def presigned():
        import urllib.request

        url = client.presigned_get_object("minio-client", "k", expires=timedelta(minutes=5))
        equal(urllib.request.urlopen(url, timeout=30).read(), b"hello")

    @check
    def remove():
        names = ["copied", "k", "stream"]
        errors = client.remove_objects("minio-client", [DeleteObject(name) for name in names])
        equal(list(errors), [])
        client.remove_bucket("minio-client")


main(LIBRARY)
