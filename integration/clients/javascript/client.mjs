// The JavaScript SDK (version 3) with streams, as a server would use it. Prints one line a check, like common.py.

import { createCipheriv } from "node:crypto";
import { createReadStream, createWriteStream, readFileSync, writeFileSync } from "node:fs";
import { PassThrough, Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import * as sdk from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";

const s3 = new sdk.S3Client({ forcePathStyle: true });
const Bucket = "javascript";
const checks = [];
const check = (name, work) => checks.push([name, work]);

// The same bytes in every run.
const content = (size, seed = 1) => {
  const cipher = createCipheriv("aes-128-ctr", Buffer.alloc(16, seed), Buffer.alloc(16));
  return cipher.update(Buffer.alloc(size));
};

const equal = (found, expected) => {
  const [left, right] = [found, expected].map((value) => JSON.stringify(value).slice(0, 300));
  if (JSON.stringify(found) !== JSON.stringify(expected)) throw new Error(`expected ${right}, got ${left}`);
};

const same = (found, expected) => {
  if (!Buffer.from(found).equals(expected)) throw new Error(`other bytes: ${found.length}, not ${expected.length}`);
};

const refused = async (name, work) => {
  try {
    await work;
  } catch (error) {
    equal(error.name, name);
    return error;
  }
  throw new Error(`no ${name}`);
};

const get = async (Key, more = {}) => {
  const { Body, ...rest } = await s3.send(new sdk.GetObjectCommand({ Bucket, Key, ...more }));
  return { ...rest, body: Buffer.from(await Body.transformToByteArray()) };
};

const put = (Key, Body, more = {}) => s3.send(new sdk.PutObjectCommand({ Bucket, Key, Body, ...more }));

check("put and get", async () => {
  await s3.send(new sdk.CreateBucketCommand({ Bucket }));
  await put("k", "hello", { Metadata: { a: "b" }, ContentType: "text/plain" });
  const got = await get("k");
  equal([got.body.toString(), got.Metadata, got.ContentType], ["hello", { a: "b" }, "text/plain"]);
});

check("a file by a stream", async () => {
  const data = content(3_000_001);
  writeFileSync("up", data);
  // The SDK frames a stream in chunks, with its checksum in the trailer.
  await put("file", createReadStream("up"), { ContentLength: data.length });
  const { Body } = await s3.send(new sdk.GetObjectCommand({ Bucket, Key: "file" }));
  await pipeline(Body, createWriteStream("down"));
  same(readFileSync("down"), data);
});

check("a stream of unknown length in parts", async () => {
  const data = content(23_000_000);
  const body = new PassThrough();
  const upload = new Upload({ client: s3, params: { Bucket, Key: "parts", Body: body }, partSize: 5 << 20, queueSize: 4 });
  let seen = 0;
  upload.on("httpUploadProgress", (progress) => (seen = Math.max(seen, progress.loaded)));
  const [done] = await Promise.all([upload.done(), pipeline(Readable.from(slices(data, 100_000)), body)]);
  equal(seen, data.length);
  if (!done.ETag.endsWith('-5"')) throw new Error(done.ETag);
  same((await get("parts")).body, data);
});

function* slices(data, size) {
  for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
}

check("a broken stream leaves nothing", async () => {
  async function* breaking() {
    yield content(6 << 20);
    throw new Error("the source broke");
  }
  const params = { Bucket, Key: "broken", Body: Readable.from(breaking()) };
  const upload = new Upload({ client: s3, params, partSize: 5 << 20 });
  await refused("Error", upload.done());
  await refused("NotFound", s3.send(new sdk.HeadObjectCommand({ Bucket, Key: "broken" })));
  const { Uploads = [] } = await s3.send(new sdk.ListMultipartUploadsCommand({ Bucket }));
  equal(Uploads.length, 0);
});

check("ranges and parts", async () => {
  const data = content(23_000_000);
  same((await get("parts", { Range: "bytes=5000000-5000099" })).body, data.subarray(5_000_000, 5_000_100));
  const part = await get("parts", { PartNumber: 2 });
  equal([part.PartsCount, part.ContentLength], [5, 5 << 20]);
});

check("checksums", async () => {
  for (const ChecksumAlgorithm of ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]) {
    let made;
    try {
      made = await put(`sum/${ChecksumAlgorithm}`, content(50_000), { ChecksumAlgorithm });
    } catch (error) {
      if (error.name === "Error" && error.message.includes("CRC64")) continue; // A package of its own.
      throw error;
    }
    const field = `Checksum${ChecksumAlgorithm}`;
    const wanted = { Bucket, Key: `sum/${ChecksumAlgorithm}`, ChecksumMode: "ENABLED" };
    equal((await s3.send(new sdk.HeadObjectCommand(wanted)))[field], made[field]);
    same((await get(wanted.Key, wanted)).body, content(50_000));
  }
});

check("conditional writes", async () => {
  await put("once", "first", { IfNoneMatch: "*" });
  await refused("PreconditionFailed", put("once", "second", { IfNoneMatch: "*" }));
  const { ETag } = await get("once");
  await put("once", "third", { IfMatch: ETag });
  await refused("PreconditionFailed", put("once", "fourth", { IfMatch: ETag }));
  const race = await Promise.allSettled(Array.from({ length: 16 }, (_, n) => put("race", `${n}`, { IfNoneMatch: "*" })));
  const winners = race.flatMap((outcome, n) => (outcome.status === "fulfilled" ? [`${n}`] : []));
  equal(winners, [(await get("race")).body.toString()]);
});

check("pages, waiters and typed errors", async () => {
  await Promise.all(Array.from({ length: 60 }, (_, n) => put(`page/${String(n).padStart(2, "0")}`, "x")));
  const keys = [];
  for await (const page of sdk.paginateListObjectsV2({ client: s3, pageSize: 7 }, { Bucket, Prefix: "page/" })) {
    keys.push(...page.Contents.map((entry) => entry.Key));
  }
  equal(keys.length, 60);
  await sdk.waitUntilObjectExists({ client: s3, maxWaitTime: 10 }, { Bucket, Key: "page/00" });
  const missing = await refused("NoSuchKey", get("missing"));
  equal([missing instanceof sdk.NoSuchKey, missing.$metadata.httpStatusCode], [true, 404]);
});

check("presigned by fetch", async () => {
  const url = await getSignedUrl(s3, new sdk.PutObjectCommand({ Bucket, Key: "signed url+&" }), { expiresIn: 60 });
  equal((await fetch(url, { method: "PUT", body: "by url" })).status, 200);
  const back = await getSignedUrl(s3, new sdk.GetObjectCommand({ Bucket, Key: "signed url+&" }), { expiresIn: 60 });
  equal(await (await fetch(back)).text(), "by url");
});

check("copy and delete", async () => {
  await s3.send(new sdk.CopyObjectCommand({ Bucket, Key: "copied", CopySource: `${Bucket}/file` }));
  same((await get("copied")).body, content(3_000_001));
  for await (const page of sdk.paginateListObjectsV2({ client: s3 }, { Bucket })) {
    const Objects = page.Contents.map(({ Key }) => ({ Key }));
    const { Errors = [] } = await s3.send(new sdk.DeleteObjectsCommand({ Bucket, Delete: { Objects } }));
    equal(Errors, []);
  }
  await s3.send(new sdk.DeleteBucketCommand({ Bucket }));
});

let failed = 0;
for (const [name, work] of checks) {
  try {
    await work();
    console.log(`ok javascript: ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL javascript: ${name}: line ${String(error.stack).replaceAll("\n", " ").slice(0, 600)}`);
  }
}
process.exit(failed ? 1 : 0);
