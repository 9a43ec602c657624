"""What the scripts of real clients share: named checks, commands, files.

Each script is run with AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION set and with
a directory of its own as HOME and as working directory. It prints one line a check: `ok NAME` or `FAIL NAME: WHY`.
"""

import hashlib
import os
import random
import subprocess
import sys
import time
import traceback

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
HOST = ENDPOINT.split("//", 1)[1]
ACCESS_KEY = os.environ["AWS_ACCESS_KEY_ID"]
SECRET_KEY = os.environ["AWS_SECRET_ACCESS_KEY"]

# What rclone calls fluffy:, for every script that runs it.
os.environ.update(
    RCLONE_CONFIG_FLUFFY_TYPE="s3",
    RCLONE_CONFIG_FLUFFY_PROVIDER="Other",
    RCLONE_CONFIG_FLUFFY_ACCESS_KEY_ID=ACCESS_KEY,
    RCLONE_CONFIG_FLUFFY_SECRET_ACCESS_KEY=SECRET_KEY,
    RCLONE_CONFIG_FLUFFY_ENDPOINT=ENDPOINT,
)

_checks = []


def check(function):
    """Registers a check; they run in the order of the file, since later ones use what earlier ones stored."""
    _checks.append(function)
    return function


def main(client):
    """Runs all checks of the script."""
    failed = 0
    for function in _checks:
        name = f"{client}: {function.__name__.replace('_', ' ')}"
        try:
            function()
            print(f"ok {name}", flush=True)
        except Exception as error:  # A failed check must not end the others.
            failed += 1
            where = traceback.extract_tb(error.__traceback__)[1 if len(traceback.extract_tb(error.__traceback__)) > 1 else 0]
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")[:600]
            print(f"FAIL {name}: line {where.lineno}: {reason}", flush=True)
    sys.exit(1 if failed else 0)


def run(*command, expect=0, **options):
    """Runs a command; returns what it printed. An error carries everything it said."""
    options.setdefault("timeout", 300)
    done = subprocess.run([str(part) for part in command], capture_output=True, **options)
    if expect is not None and done.returncode != expect:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise AssertionError(f"{command[0]} {command[1:4]} ended with {done.returncode}: {said[-500:]}")
    return done.stdout.decode(errors="replace")


def fails(*command, **options):
    """Runs a command that must fail; returns what it said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, timeout=120, **options)
    assert done.returncode != 0, f"{command} succeeded"
    return (done.stdout + done.stderr).decode(errors="replace")


def content(size, seed=1):
    """`size` bytes that are the same in every run."""
    return random.Random(seed).randbytes(size)


def write(path, data):
    """Writes a file and the directories above it."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def read(path):
    """All bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


def tree(root):
    """Relative path and digest of each file under `root`."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = hashlib.sha256(read(path)).hexdigest()
    return found


def make_tree(root, seed=1):
    """A small tree: empty, small, inline-sized, multi-chunk and multipart-sized files, odd names."""
    sizes = {
        "empty": 0,
        "small.txt": 11,
        "inline": 16_384,
        "chunks": 3_000_001,
        "dir/with space": 100,
        "dir/ümläut-日本.txt": 200,
        "dir/deep/er/file+plus&and=": 300,
        "large": 20_000_000,
    }
    # S3 tells times in whole seconds: what was changed in the second of its upload looks newer than its copy.
    changed = time.time() - 60
    for index, (name, size) in enumerate(sizes.items()):
        path = os.path.join(root, name)
        write(path, content(size, seed * 100 + index))
        os.utime(path, (changed, changed))
    return tree(root)


def equal(found, expected):
    """An error that shows both unless they are equal."""
    assert found == expected, f"expected {str(expected)[:200]}, got {str(found)[:200]}"
