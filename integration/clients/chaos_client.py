"""A worker of `cargo chaos` that is a client which others wrote: reads and writes a few keys through boto3, with its own
retries, or through the aws CLI, and records each operation as a JSON line.

Usage: chaos_client.py boto3|aws RECORD BUCKET PREFIX ENDPOINT…  It works until its standard input ends. Times are
nanoseconds of the monotonic clock. Bodies describe themselves by their first 8 bytes, repeated.
"""

import json
import os
import random
import re
import sys
import tempfile
import threading
import time
import traceback

import awscli.clidriver
import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEYS = 12
THREADS = 2
LENGTHS = [16, 4096, 16384, 16392, 70000, 1048584]
# The CLI cuts bodies into parts from here on; one length is above.
PART_LENGTH = 5 << 20
CLI_KEYS = 6
CLI_LENGTHS = LENGTHS[:5] + [PART_LENGTH + 16]
# A command takes much CPU for one request: the CLI leaves it to the others.
CLI_PAUSE = 0.5
CLI_NICENESS = 10
# What a read returns where there is no object; where it was not served it is None.
ABSENT = object()


class Flawed(Exception):
    """A body of two writes, or of none."""


def body_of(id_, length):
    return id_.to_bytes(8, "little") * (length // 8)


def id_of(body):
    id_ = int.from_bytes(body[:8], "little")
    if len(body) not in LENGTHS + CLI_LENGTHS or body != body_of(id_, len(body)):
        raise Flawed(f"{len(body)} bytes that begin with {body[:8].hex()}")
    return id_


class Worker:
    """Draws operations and records them; its subclasses know how to do them."""

    keys = KEYS
    lengths = LENGTHS

    def __init__(self, record, lock, bucket, prefix, number):
        self.record, self.lock, self.bucket, self.prefix = record, lock, bucket, prefix
        self.random = random.Random(number)
        self.next_id = (number + 1) << 48
        self.etags = {}
        self.gateways = []
        self.served = 0

    def note(self, **line):
        self.served += line.get("outcome") != "unknown"
        with self.lock:
            self.record.write(json.dumps(line) + "\n")
            self.record.flush()

    def step(self):
        gateway = self.random.choice(self.gateways)
        key = f"{self.prefix}{self.random.randrange(self.keys):02}"
        draw = self.random.randrange(10)
        if draw < 5:
            self.put(gateway, key)
        elif draw < 8:
            self.get(gateway, key)
        elif draw < 9:
            self.write(key, 0, "any", lambda: self.delete_object(gateway, key))
        else:
            self.list(gateway)

    def write(self, key, id_, condition, call):
        """`call` returns the outcome and an ETag, if there is one."""
        began = time.monotonic_ns()
        outcome, etag = call()
        self.note(
            operation="write", key=key, id=id_, condition=condition, outcome=outcome, began=began, ended=time.monotonic_ns()
        )
        return etag

    def put(self, gateway, key):
        self.next_id += 1
        id_ = self.next_id
        expected, condition = {}, "any"
        draw = self.random.randrange(4)
        if draw == 0:
            expected, condition = {"IfNoneMatch": "*"}, "none"
        elif draw == 1 and key in self.etags:
            seen, etag = self.etags[key]
            expected, condition = {"IfMatch": etag}, str(seen)
        body = body_of(id_, self.random.choice(self.lengths))
        etag = self.write(key, id_, condition, lambda: self.put_object(gateway, key, body, expected))
        if etag:
            self.etags[key] = (id_, etag)

    def get(self, gateway, key):
        began = time.monotonic_ns()
        body = self.get_object(gateway, key)
        if body is None:
            return  # It was not served.
        id_ = 0 if body is ABSENT else id_of(body)
        self.note(operation="get", key=key, id=id_, began=began, ended=time.monotonic_ns())

    def list(self, gateway):
        began = time.monotonic_ns()
        shown = self.list_objects(gateway)
        if shown is not None:
            self.note(operation="list", key=self.prefix, shown=shown, began=began, ended=time.monotonic_ns())

    def last_look(self):
        """Every key through every gateway."""
        for gateway in self.gateways:
            for number in range(self.keys):
                self.get(gateway, f"{self.prefix}{number:02}")
            self.list(gateway)


class Sdk(Worker):
    """boto3."""

    def __init__(self, record, lock, bucket, prefix, endpoints, number):
        super().__init__(record, lock, bucket, prefix, number)
        config = Config(
            retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=10, s3={"addressing_style": "path"}
        )
        session = boto3.session.Session()
        self.gateways = [session.client("s3", endpoint_url=endpoint, config=config) for endpoint in endpoints]

    def outcome(self, call):
        try:
            return "acknowledged", call().get("ETag")
        except ClientError as error:
            # After a retry a definite answer is none: the try before it may have taken effect.
            retried = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if retried or status >= 500 or status in (408, 409):
                return "unknown", None
            return ("condition failed" if status == 412 else "refused"), None
        except BotoCoreError:
            return "unknown", None

    def put_object(self, client, key, body, expected):
        return self.outcome(lambda: client.put_object(Bucket=self.bucket, Key=key, Body=body, **expected))

    def delete_object(self, client, key):
        return self.outcome(lambda: client.delete_object(Bucket=self.bucket, Key=key))

    def get_object(self, client, key):
        try:
            return client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            return ABSENT
        except (ClientError, BotoCoreError):
            return None

    def list_objects(self, client):
        try:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix, PaginationConfig={"PageSize": 5}
            )
            return [item["Key"] for page in pages for item in page.get("Contents", [])]
        except (ClientError, BotoCoreError):
            return None


class Cli(Worker):
    """The aws CLI: a process for each command, as `aws` would be, but with its modules imported already."""

    keys = CLI_KEYS
    lengths = CLI_LENGTHS

    def __init__(self, record, lock, bucket, prefix, endpoints, number):
        super().__init__(record, lock, bucket, prefix, number)
        self.gateways = endpoints
        self.home = tempfile.TemporaryDirectory()
        self.file = os.path.join(self.home.name, "body")
        os.environ["AWS_CONFIG_FILE"] = os.path.join(self.home.name, "config")
        os.environ["AWS_RETRY_MODE"] = "standard"
        with open(os.environ["AWS_CONFIG_FILE"], "w", encoding="utf-8") as config:
            config.write(f"[default]\ns3 =\n  multipart_threshold = {PART_LENGTH}\n  multipart_chunksize = {PART_LENGTH}\n")
        os.nice(CLI_NICENESS)

    def step(self):
        super().step()
        time.sleep(CLI_PAUSE)

    def aws(self, gateway, *arguments, attempts=3):
        """Runs a command; returns its exit code, and what it wrote to its standard output and its standard error."""
        arguments = [*arguments, "--endpoint-url", gateway, "--cli-connect-timeout", "5", "--cli-read-timeout", "10"]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            child = os.fork()
            if child == 0:
                self.become_aws(arguments, out, error, attempts)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            out.seek(0)
            error.seek(0)
            said = error.read().decode(errors="replace")
            if "Traceback" in said:
                raise RuntimeError(f"aws {arguments}: {said}")
            return code, out.read(), said

    def become_aws(self, arguments, out, error, attempts):
        code = 255
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(error.fileno(), 2)
            os.environ["AWS_MAX_ATTEMPTS"] = str(attempts)
            sys.argv = ["aws", *arguments]
            code = awscli.clidriver.main()
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:  # It is no failure of the store, and the parent has to hear of it.
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def outcome(self, gateway, *arguments, attempts=3):
        # With one attempt a definite answer is one; after a retry the try before it may have taken effect.
        code, out, error = self.aws(gateway, *arguments, attempts=attempts)
        if code == 0:
            return "acknowledged", out
        found = re.search(r"An error occurred \((\w+)\)", error)
        if attempts > 1 or not found:
            return "unknown", None
        if found[1] == "PreconditionFailed":
            return "condition failed", None
        return ("refused" if found[1] in ("SlowDown", "InsufficientStorage", "RequestTimeTooSkewed") else "unknown"), None

    def put_object(self, gateway, key, body, expected):
        with open(self.file, "wb") as file:
            file.write(body)
        if not expected and (len(body) >= PART_LENGTH or self.random.randrange(2)):
            outcome, _ = self.outcome(gateway, "s3", "cp", self.file, f"s3://{self.bucket}/{key}")
            return outcome, None
        conditions = {"IfNoneMatch": "--if-none-match", "IfMatch": "--if-match"}
        options = [word for name, value in expected.items() for word in (conditions[name], value)]
        place = ["--bucket", self.bucket, "--key", key]
        attempts = 1 if expected else 3
        outcome, out = self.outcome(
            gateway, "s3api", "put-object", *place, "--body", self.file, *options, attempts=attempts
        )
        return outcome, json.loads(out)["ETag"] if out else None

    def delete_object(self, gateway, key):
        outcome, _ = self.outcome(gateway, "s3", "rm", f"s3://{self.bucket}/{key}")
        return outcome, None

    def get_object(self, gateway, key):
        if self.random.randrange(2):
            code, body, error = self.aws(gateway, "s3", "cp", f"s3://{self.bucket}/{key}", "-")
        else:
            place = ["--bucket", self.bucket, "--key", key]
            code, body, error = self.aws(gateway, "s3api", "get-object", *place, self.file)
            if code == 0:
                with open(self.file, "rb") as file:
                    body = file.read()
        if code == 0:
            return body
        return ABSENT if "(404)" in error or "(NoSuchKey)" in error else None

    def list_objects(self, gateway):
        options = ["--bucket", self.bucket, "--prefix", self.prefix, "--page-size", "2", "--output", "json"]
        code, out, _ = self.aws(gateway, "s3api", "list-objects-v2", *options)
        if code != 0:
            return None
        return [item["Key"] for item in (json.loads(out) if out.strip() else {}).get("Contents", [])]


def work(worker, stop, failures):
    try:
        while not stop.is_set():
            worker.step()
        worker.last_look()
        if not worker.served:
            raise RuntimeError("nothing was served")
    except Exception as error:  # Whatever it was, the episode has to hear of it.
        failures.append(error)


def main():
    client, record_path, bucket, prefix, *endpoints = sys.argv[1:]
    failures, stop, lock = [], threading.Event(), threading.Lock()

    def wait():
        sys.stdin.read()
        stop.set()

    with open(record_path, "w", encoding="utf-8") as record:
        if client == "aws":
            # A process that forks has no other threads but the one that waits.
            threading.Thread(target=wait, daemon=True).start()
            work(Cli(record, lock, bucket, prefix, endpoints, 0), stop, failures)
        else:
            workers = [Sdk(record, lock, bucket, prefix, endpoints, number) for number in range(THREADS)]
            threads = [threading.Thread(target=work, args=(worker, stop, failures)) for worker in workers]
            for thread in threads:
                thread.start()
            wait()
            for thread in threads:
                thread.join()
    for failure in failures:
        print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


main()
