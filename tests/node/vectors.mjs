// The second oracle of version 2: opens vectors, verifies their signatures, and seals a request of its own.
// `node vectors.mjs FOLDER` prints what it has sealed, one line for each suite.

import { createHmac, createPrivateKey, createPublicKey, sign, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import assert from "node:assert/strict";
import { Aes256Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";

const folder = process.argv[2];
const suite = (kem) => new CipherSuite({ kem, kdf: new HkdfSha256(), aead: new Aes256Gcm() });
const bytes = (hex) => Buffer.from(hex, "hex");
const base64url = (content) => Buffer.from(content).toString("base64url");
const ed25519Private = (raw) =>
  createPrivateKey({ key: Buffer.concat([bytes("302e020100300506032b657004220420"), raw]), format: "der", type: "pkcs8" });
const ed25519Public = (raw) =>
  createPublicKey({ key: Buffer.concat([bytes("302a300506032b6570032100"), raw]), format: "der", type: "spki" });

function verified(text, publicKey) {
  const at = text.lastIndexOf(".");
  const signature = Buffer.from(text.slice(at + 1), "base64url");
  assert.ok(verify(null, Buffer.from(text.slice(0, at)), ed25519Public(bytes(publicKey)), signature));
  return text.slice(0, at).split(".");
}

const canonical = (value) =>
  Array.isArray(value)
    ? `[${value.map(canonical).join(",")}]`
    : value !== null && typeof value === "object"
      ? `{${Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}`
      : JSON.stringify(value).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

function pad(content) {
  let size = 512;
  while (size < content.length + 4) size *= 2;
  const padded = Buffer.alloc(size);
  padded.writeUInt32BE(content.length);
  content.copy(padded, 4);
  return padded;
}

const publicX25519 = (identity) => {
  const der = Buffer.concat([bytes("302e020100300506032b656e04220420"), bytes(identity.x25519_private)]);
  const spki = createPublicKey(createPrivateKey({ key: der, format: "der", type: "pkcs8" })).export({ format: "der", type: "spki" });
  return spki.subarray(-32);
};
const families = [
  {
    name: "x25519", suite: suite(new DhkemX25519HkdfSha256()), encapsulated: 32,
    privateKey: (identity) => bytes(identity.x25519_private), publicKey: publicX25519,
  },
  {
    name: "xwing", suite: suite(new XWing()), encapsulated: 1120,
    // Copies: the library takes the whole memory behind a Buffer, and Node puts several into one.
    privateKey: (identity) => Uint8Array.from(bytes(identity.xwing_seed)),
    publicKey: (identity) => Uint8Array.from(bytes(identity.xwing_public)),
  },
];

async function open({ suite, encapsulated, privateKey }, vector) {
  const [prefix, header, ciphertext] = verified(vector.text, vector.producer_public);
  assert.equal(Buffer.from(header, "base64url").toString(), canonical(vector.header));
  const key = await suite.kem.importKey("raw", privateKey(vector.identity), false);
  const sealed = Buffer.from(ciphertext, "base64url");
  const recipient = await suite.createRecipientContext({
    recipientKey: key, enc: sealed.subarray(0, encapsulated), info: Buffer.from(`${prefix}.${header}`),
  });
  const padded = Buffer.from(await recipient.open(sealed.subarray(encapsulated)));
  const content = padded.subarray(4, 4 + padded.readUInt32BE()).toString();
  assert.equal(content, canonical(vector.opens_to));
  const { plan, salt } = vector.opens_to;
  const digest = plan && createHmac("sha256", bytes(salt)).update(canonical(plan)).digest("hex");
  assert.equal(digest, vector.header.plan_digest);
}

async function seal({ suite, publicKey }, vector) {
  const header = base64url(canonical({ ...vector.header, request_id: "req-node" }));
  const recipientPublicKey = await suite.kem.importKey("raw", publicKey(vector.identity), true);
  const sender = await suite.createSenderContext({ recipientPublicKey, info: Buffer.from(`tf2e.${header}`) });
  const sealed = Buffer.from(await sender.seal(pad(Buffer.from(canonical(vector.opens_to)))));
  const signed = `tf2e.${header}.${base64url(Buffer.concat([Buffer.from(sender.enc), sealed]))}`;
  const signature = sign(null, Buffer.from(signed), ed25519Private(bytes(vector.producer_private)));
  return `${signed}.${base64url(signature)}`;
}

for (const family of families) {
  const vectors = ["card", "bank_account_with_plan"].map((name) =>
    JSON.parse(readFileSync(join(folder, `${family.name}_${name}.json`))));
  for (const vector of vectors) await open(family, vector);
  console.log(await seal(family, vectors.at(-1)));
}

const order = JSON.parse(readFileSync(join(folder, "order.json")));
const [, spelled] = verified(order.text, order.producer_public);
assert.equal(Buffer.from(spelled, "base64url").toString(), canonical(order.order));

const told = JSON.parse(readFileSync(join(folder, "results.json")));
for (const { body, headers } of Object.values(told.results)) {
  const kind = body.startsWith('{"type":"notice",') ? "notice" : "result";
  const signed = Buffer.from(`tokenferry/v2/${kind}\0${told.queue}\0${body}`);
  const signature = Buffer.from(headers["tokenferry-signature"].split(".")[1], "base64url");
  assert.ok(verify(null, signed, ed25519Public(bytes(told.result_public)), signature));
}
