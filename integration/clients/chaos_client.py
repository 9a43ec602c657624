"""A worker of `cargo chaos` that is the AWS SDK: reads and writes a few keys through boto3, with its own retries, and
records each operation as a JSON line.

Usage: chaos_client.py RECORD BUCKET PREFIX ENDPOINT…  It works until its standard input ends. Times are nanoseconds of
the monotonic clock. Bodies describe themselves by their first 8 bytes, repeated.
"""

import json
import random
import sys
import threading
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEYS = 12
THREADS = 2
LENGTHS = [16, 4096, 16384, 16392, 70000, 1048584]


class Flawed(Exception):
    """A body of two writes, or of none."""


def body_of(id_, length):
    return id_.to_bytes(8, "little") * (length // 8)


def id_of(body):
    id_ = int.from_bytes(body[:8], "little")
    if len(body) not in LENGTHS or body != body_of(id_, len(body)):
        raise Flawed(f"{len(body)} bytes that begin with {body[:8].hex()}")
    return id_


class Worker:
    def __init__(self, record, lock, bucket, prefix, endpoints, number):
        config = Config(
            retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=10, s3={"addressing_style": "path"}
        )
        session = boto3.session.Session()
        self.clients = [session.client("s3", endpoint_url=endpoint, config=config) for endpoint in endpoints]
        self.record, self.lock, self.bucket, self.prefix = record, lock, bucket, prefix
        self.random = random.Random(number)
        self.next_id = (number + 1) << 48
        self.etags = {}

    def note(self, **line):
        with self.lock:
            self.record.write(json.dumps(line) + "\n")
            self.record.flush()

    def write(self, key, id_, condition, call):
        began = time.monotonic_ns()
        etag = None
        try:
            etag = call().get("ETag")
            outcome = "acknowledged"
        except ClientError as error:
            # After a retry a definite answer is none: the try before it may have taken effect.
            retried = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if retried or status >= 500 or status in (408, 409):
                outcome = "unknown"
            else:
                outcome = "condition failed" if status == 412 else "refused"
        except BotoCoreError:
            outcome = "unknown"
        self.note(
            operation="write", key=key, id=id_, condition=condition, outcome=outcome, began=began, ended=time.monotonic_ns()
        )
        return etag

    def step(self):
        client = self.random.choice(self.clients)
        key = f"{self.prefix}{self.random.randrange(KEYS):02}"
        draw = self.random.randrange(10)
        if draw < 5:
            self.put(client, key)
        elif draw < 8:
            self.get(client, key)
        elif draw < 9:
            self.write(key, 0, "any", lambda: client.delete_object(Bucket=self.bucket, Key=key))
        else:
            self.list(client)

    def put(self, client, key):
        self.next_id += 1
        id_ = self.next_id
        arguments, condition = {}, "any"
        draw = self.random.randrange(4)
        if draw == 0:
            arguments, condition = {"IfNoneMatch": "*"}, "none"
        elif draw == 1 and key in self.etags:
            seen, etag = self.etags[key]
            arguments, condition = {"IfMatch": etag}, str(seen)
        body = body_of(id_, self.random.choice(LENGTHS))
        put = lambda: client.put_object(Bucket=self.bucket, Key=key, Body=body, **arguments)
        etag = self.write(key, id_, condition, put)
        if etag:
            self.etags[key] = (id_, etag)

    def get(self, client, key):
        began = time.monotonic_ns()
        try:
            id_ = id_of(client.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        except client.exceptions.NoSuchKey:
            id_ = 0
        except (ClientError, BotoCoreError):
            return
        self.note(operation="get", key=key, id=id_, began=began, ended=time.monotonic_ns())

    def last_look(self):
        """Every key through every gateway."""
        for client in self.clients:
            for number in range(KEYS):
                self.get(client, f"{self.prefix}{number:02}")
            self.list(client)

    def list(self, client):
        began = time.monotonic_ns()
        try:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix, PaginationConfig={"PageSize": 5}
            )
            shown = [item["Key"] for page in pages for item in page.get("Contents", [])]
        except (ClientError, BotoCoreError):
            return
        self.note(operation="list", key=self.prefix, shown=shown, began=began, ended=time.monotonic_ns())


def main():
    record_path, bucket, prefix, *endpoints = sys.argv[1:]
    failures = []
    stop = threading.Event()
    with open(record_path, "w", encoding="utf-8") as record:
        lock = threading.Lock()

        def work(number):
            try:
                worker = Worker(record, lock, bucket, prefix, endpoints, number)
                while not stop.is_set():
                    worker.step()
                worker.last_look()
            except Exception as error:  # Whatever it was, the episode has to hear of it.
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in threads:
            thread.join()
    for failure in failures:
        print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


main()
