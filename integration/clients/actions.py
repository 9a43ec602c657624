"""Every action of AWS, as botocore knows them, against the table in the documentation: none is missing there, what it
says is refused is refused, and what it says works is not."""

import os

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from common import check, equal, main

TABLE = os.path.join(os.path.dirname(__file__), "..", "docs", "s3.md")
BUCKET = "actions"
# They go to other hosts, or need what no bucket here has.
ELSEWHERE = {"CreateSession", "ListDirectoryBuckets", "WriteGetObjectResponse"}

s3 = boto3.client("s3", config=Config(retries={"max_attempts": 1}, parameter_validation=False))
METHODS = {action: method for method, action in s3.meta.method_to_api_mapping.items()}


def table():
    with open(TABLE) as file:
        rows = [line.strip("| \n").split(" | ") for line in file if line.startswith("| ")]
    return {row[0]: row[1] for row in rows if row[0] in METHODS}


def filled(shape):
    """The least that a shape takes."""
    if shape.type_name == "structure":
        required = {name: filled(shape.members[name]) for name in shape.required_members}
        return required
    if shape.type_name == "list":
        return [filled(shape.member)]
    if shape.type_name == "map":
        return {}
    if shape.type_name in ("integer", "long"):
        return 1
    if shape.type_name == "boolean":
        return False
    if shape.type_name == "timestamp":
        return 4_000_000_000
    # What is the default of AWS stands last where there is one.
    return shape.enum[-1] if getattr(shape, "enum", None) else "x"


def answer(action):
    arguments = filled(s3.meta.service_model.operation_model(action).input_shape or EMPTY)
    arguments.update({name: value for name, value in KNOWN.items() if name in arguments})
    try:
        getattr(s3, METHODS[action])(**arguments)
        return "works"
    except ClientError as error:
        code = error.response["Error"]["Code"]
        return "refused" if code in ("NotImplemented", "501") else code


KNOWN = {"Bucket": BUCKET, "Key": "k", "CopySource": f"{BUCKET}/k"}
EMPTY = s3.meta.service_model.operation_model("HeadBucket").input_shape


@check
def the_table_names_every_action_of_aws():
    equal(sorted(table()), sorted(s3.meta.service_model.operation_names))


@check
def actions_do_what_the_table_says():
    s3.create_bucket(Bucket=BUCKET)
    wrong = []
    for action, here in sorted(table().items()):
        if action in ELSEWHERE:
            equal(here, "refused")
            continue
        s3.put_object(Bucket=BUCKET, Key="k", Body=b"x")
        got = answer(action)
        if (got == "refused") != (here == "refused"):
            wrong.append(f"{action}: {here} in the table, {got}")
    equal(wrong, [])


main("actions")
