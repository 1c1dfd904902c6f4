"use strict";
// What ioredis does with a server; see parts.cjs.

const assert = require("node:assert/strict");
const { eventually, gather, load, refused, run } = require("./parts.cjs");
const { Redis, Cluster } = load("ioredis");

async function crud(client) {
  await client.flushall();
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.set("k", "v"), "OK");
  assert.equal(await client.get("k"), "v");
  assert.equal(await client.get("none"), null);
  assert.equal(await client.set("k", "w", "EX", 100, "NX"), null);
  assert.equal(await client.incrby("n", 5), 5);
  const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, n) => n % 256));
  await client.set("bytes", bytes);
  assert.ok(bytes.equals(await client.getBuffer("bytes")));
  await client.set("e", "1", "PX", 60);
  await new Promise((resolve) => setTimeout(resolve, 120));
  assert.equal(await client.exists("e", "k", "n"), 2);
  assert.match(await refused(client.incr("k")), /^ERR value is not an integer/);
  assert.match(await client.info("server"), /redis_version:/);
}

async function pipelines(client) {
  const pipeline = client.pipeline();
  for (let n = 0; n < 1000; n++) pipeline.set(`p:${n}`, n).get(`p:${n}`);
  const replies = await pipeline.exec();
  replies.forEach(([error, reply], n) => {
    assert.equal(error, null);
    assert.equal(reply, n % 2 ? String((n - 1) / 2) : "OK");
  });
}

async function transactions(client, other) {
  const replies = await client.multi().set("{t}n", "text").incr("{t}n").get("{t}n").exec();
  assert.equal(replies[1][0].message, "ERR value is not an integer or out of range");
  assert.deepEqual([replies[0], replies[2]], [[null, "OK"], [null, "text"]]);
  await client.watch("{t}n");
  await other.set("{t}n", 1);
  assert.equal(await client.multi().set("{t}n", 2).exec(), null);
  await client.watch("{t}n");
  assert.deepEqual(await client.multi().incr("{t}n").exec(), [[null, 2]]);
  assert.match(await refused(client.multi().incr("{t}n").set("{t}n").exec()), /^EXECABORT/);
  assert.equal(await client.get("{t}n"), "2");
}

async function pubsub(client, listener) {
  const messages = gather(3);
  listener.on("message", (channel, text) => messages.take("to", channel, text));
  listener.on("pmessage", (pattern, channel, text) => messages.take("by", pattern, channel, text));
  assert.equal(await listener.subscribe("news", "other"), 2);
  assert.equal(await listener.psubscribe("n*"), 3);
  assert.equal(await client.publish("news", "one"), 2);
  assert.equal(await client.publish("other", "two"), 1);
  assert.deepEqual(await messages.all, ["by n* news one", "to news one", "to other two"]);
  assert.equal(await listener.unsubscribe("news", "other"), 1);
  assert.equal(await listener.punsubscribe("n*"), 0);
  assert.equal(await client.publish("news", "three"), 0);
}

async function plain(port) {
  for (const protocol of [2, 3]) {
    const [client, other] = [0, 1].map(() => new Redis({ port, protocol }));
    await crud(client);
    await pipelines(client);
    await transactions(client, other);
    await pubsub(client, other);
    await Promise.all([client.quit(), other.quit()]);
  }
}

async function cluster(port, ...shardPorts) {
  for (const start of [port, ...shardPorts]) {
    const client = new Cluster([{ host: "127.0.0.1", port: start }], { shardedSubscribers: true });
    await Promise.all(Array.from({ length: 500 }, (_, n) => client.set(`c:${n}`, n)));
    const got = await Promise.all(Array.from({ length: 500 }, (_, n) => client.get(`c:${n}`)));
    got.forEach((value, n) => assert.equal(value, String(n)));
    const nodes = client.nodes("master").map((node) => node.options.port).sort();
    assert.deepEqual(nodes, [...shardPorts].sort());
    for (const tag of ["{a}", "{b}", "{c}", "{d}"]) {
      const replies = await client.multi().set(tag, 1).incr(tag).exec();
      assert.deepEqual(replies, [[null, "OK"], [null, 2]]);
      assert.deepEqual(await client.mget(`${tag}x`, tag), [null, "2"]);
    }
    assert.match(await refused(client.mget("{a}", "{b}")), /^CROSSSLOT/);
    const messages = gather(2);
    client.on("message", (channel, text) => messages.take(channel, text));
    client.on("smessage", (channel, text) => messages.take("s", channel, text));
    await client.subscribe("news");
    await client.ssubscribe("shard");
    assert.equal(await client.publish("news", "one"), 1);
    assert.equal(await client.spublish("shard", "two"), 1);
    assert.deepEqual(await messages.all, ["news one", "s shard two"]);
    await client.quit();
  }
}

// Several nodes: who asks for it has its reads answered by those that follow.
async function replicas(port) {
  const node = { host: "127.0.0.1", port };
  const writer = new Cluster([node]);
  const numbers = Array.from({ length: 300 }, (_, n) => n);
  await eventually(() => Promise.all(numbers.map((n) => writer.set(`r:${n}`, n))));
  for (const scaleReads of ["slave", "all"]) {
    const reader = new Cluster([node], { scaleReads });
    await eventually(async () => assert.equal(await reader.get("r:0"), "0"));
    assert.ok(reader.nodes("slave").length > 0, "replicas are known");
    await eventually(async () => {
      const got = await Promise.all(numbers.map((n) => reader.get(`r:${n}`)));
      got.forEach((value, n) => assert.equal(value, String(n)));
    });
    await eventually(async () => assert.equal(await reader.set("r:0", "0"), "OK"));
    await reader.quit();
  }
  await writer.quit();
}

run({ plain, cluster, replicas });
