"""A page in a browser that uploads across origins: the program of the browser is the first argument.

The page comes from a server of its own, so that its origin is another one than the store's. It runs one script, and tells
that server what came of it.
"""

import http.server
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config

from common import check, content, equal, main

BUCKET = "browser"
# Without rules of CORS.
CLOSED = "browser-closed"
FILE = content(3_000_000)

PAGE = """<!doctype html><meta charset="utf-8"><title>page</title><script type="module">
const given = GIVEN;
const file = async () => new File([await (await fetch("/file")).blob()], "cat.png", {type: "image/png"});
const form = async (post) => {
  const data = new FormData();
  for (const [name, value] of Object.entries(post.fields)) data.append(name, value);
  data.append("file", await file());
  return data;
};
const heard = async (answer) => ({
  status: answer.status, etag: answer.headers.get("etag"), text: await answer.text(),
});
let told;
try { told = await (async () => { SCRIPT })(); } catch (error) { told = {error: `${error.name}`}; }
if (told) await fetch("/told", {method: "POST", body: JSON.stringify(told)});
</script>"""

s3 = boto3.client("s3", config=Config(signature_version="s3v4"))


class Pages(http.server.BaseHTTPRequestHandler):
    """Gives the page and its file, and passes on what the page tells."""

    def do_GET(self):
        path = urlsplit(self.path)
        if path.path == "/done":
            self.server.told.put({name: values[0] for name, values in parse_qs(path.query).items()})
        body = {"/page": self.server.page, "/file": FILE}.get(path.path, b"done")
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream" if path.path == "/file" else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.server.told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        """Nothing is printed but checks."""


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
server.told = queue.Queue()
threading.Thread(target=server.serve_forever, daemon=True).start()
ORIGIN = f"http://127.0.0.1:{server.server_port}"


def told_by_page(script, given):
    """What a page says that runs `script` with `given`."""
    server.page = PAGE.replace("GIVEN", json.dumps(given)).replace("SCRIPT", script).encode()
    with tempfile.TemporaryDirectory(dir=os.environ["HOME"], ignore_cleanup_errors=True) as profile:
        # Nobody else's pages are shown, so that it needs no sandbox; root gets none.
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
        browser = subprocess.Popen(
            [sys.argv[1], *options, f"--user-data-dir={profile}", f"{ORIGIN}/page"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return server.told.get(timeout=60)
        finally:
            # Those that it started are of its session.
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()


def post(bucket, key, fields=None, conditions=None):
    fields = {"Content-Type": "image/png", **(fields or {})}
    exact = [{name: value} for name, value in fields.items()]
    return s3.generate_presigned_post(bucket, key, Fields=fields, Conditions=exact + (conditions or []))


FETCH_FORM = 'return heard(await fetch(given.url, {method: "POST", body: await form(given)}));'


@check
def prepare():
    for bucket in [BUCKET, CLOSED]:
        s3.create_bucket(Bucket=bucket)
    rule = {
        "AllowedOrigins": [ORIGIN],
        "AllowedMethods": ["GET", "PUT", "POST"],
        "AllowedHeaders": ["content-type", "x-amz-*"],
        "ExposeHeaders": ["ETag"],
    }
    s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [rule]})


@check
def a_page_uploads_by_a_presigned_post():
    heard = told_by_page(FETCH_FORM, post(BUCKET, "in/${filename}", {"success_action_status": "201"}))
    equal(heard.get("status"), 201)
    stored = s3.get_object(Bucket=BUCKET, Key="in/cat.png")
    equal((stored["ETag"], stored["ContentType"]), (heard["etag"], "image/png"))
    assert "<Key>in/cat.png</Key>" in heard["text"], heard
    equal(stored["Body"].read(), FILE)


@check
def a_page_hears_why_it_was_refused():
    small = [["content-length-range", 1, 1000]]
    heard = told_by_page(FETCH_FORM, post(BUCKET, "refused", conditions=small))
    equal(heard.get("status"), 400)
    assert "<Code>EntityTooLarge</Code>" in heard["text"], heard


@check
def a_form_is_sent_and_leads_back():
    script = """
      const form = Object.assign(document.createElement("form"),
        {method: "post", enctype: "multipart/form-data", action: given.url});
      for (const [name, value] of Object.entries(given.fields)) {
        form.append(Object.assign(document.createElement("input"), {type: "hidden", name, value}));
      }
      const input = Object.assign(document.createElement("input"), {type: "file", name: "file"});
      const chosen = new DataTransfer();
      chosen.items.add(await file());
      input.files = chosen.files;
      form.append(input);
      document.body.append(form);
      form.submit();
    """
    heard = told_by_page(script, post(BUCKET, "sent", {"success_action_redirect": f"{ORIGIN}/done"}))
    stored = s3.get_object(Bucket=BUCKET, Key="sent")
    equal(heard, {"bucket": BUCKET, "key": "sent", "etag": stored["ETag"]})
    equal(stored["Body"].read(), FILE)


@check
def a_page_puts_and_gets_by_presigned_urls():
    put = {"Bucket": BUCKET, "Key": "put", "ContentType": "image/png", "Metadata": {"from": "a page"}}
    given = {
        "put": s3.generate_presigned_url("put_object", put),
        "get": s3.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "put"}),
    }
    script = """
      const headers = {"content-type": "image/png", "x-amz-meta-from": "a page"};
      const put = await fetch(given.put, {method: "PUT", headers, body: await file()});
      const got = await (await fetch(given.get)).arrayBuffer();
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await (await file()).arrayBuffer()));
      const same = new Uint8Array(await crypto.subtle.digest("SHA-256", got)).every((byte, at) => byte === digest[at]);
      return {status: put.status, etag: put.headers.get("etag"), bytes: got.byteLength, same};
    """
    heard = told_by_page(script, given)
    head = s3.head_object(Bucket=BUCKET, Key="put")
    equal(heard, {"status": 200, "etag": head["ETag"], "bytes": len(FILE), "same": True})
    equal(head["Metadata"], {"from": "a page"})


@check
def a_page_of_no_rule_hears_nothing():
    heard = told_by_page(FETCH_FORM, post(CLOSED, "unheard"))
    equal(heard, {"error": "TypeError"})
    # What asks first is not even sent.
    put = s3.generate_presigned_url("put_object", {"Bucket": CLOSED, "Key": "unsent"})
    script = 'return heard(await fetch(given, {method: "PUT", body: await file()}));'
    equal(told_by_page(script, put), {"error": "TypeError"})
    listed = s3.list_objects_v2(Bucket=CLOSED).get("Contents", [])
    equal([entry["Key"] for entry in listed], ["unheard"])


main("browser")
