"use strict";
// What node-redis does with a server; see parts.cjs.

const assert = require("node:assert/strict");
const { eventually, gather, load, refused, run } = require("./parts.cjs");
const { createClient, createCluster, RESP_TYPES, WatchError } = load("redis");

async function crud(client) {
  await client.flushAll();
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.set("k", "v"), "OK");
  assert.equal(await client.get("k"), "v");
  assert.equal(await client.get("none"), null);
  assert.equal(await client.set("k", "w", { condition: "NX" }), null);
  assert.equal(await client.incrBy("n", 5), 5);
  const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, n) => n % 256));
  await client.set("bytes", bytes);
  const asBuffers = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  assert.ok(bytes.equals(await asBuffers.get("bytes")));
  await client.set("e", "1", { expiration: { type: "PX", value: 60 } });
  await new Promise((resolve) => setTimeout(resolve, 120));
  assert.equal(await client.exists(["e", "k", "n"]), 2);
  assert.match(await refused(client.incr("k")), /^ERR value is not an integer/);
  const found = [];
  for await (const keys of client.scanIterator({ COUNT: 10 })) found.push(...keys);
  assert.deepEqual(found.sort(), ["bytes", "k", "n"]);
}

async function pipelines(client) {
  const numbers = Array.from({ length: 1000 }, (_, n) => n);
  await Promise.all(numbers.map((n) => client.set(`p:${n}`, n.toString())));
  const got = await Promise.all(numbers.map((n) => client.get(`p:${n}`)));
  assert.deepEqual(got, numbers.map(String));
  const replies = await client.multi().set("p:0", "a").get("p:0").execAsPipeline();
  assert.deepEqual(replies, ["OK", "a"]);
}

async function transactions(client, other) {
  assert.deepEqual(await client.multi().set("{t}n", "1").incr("{t}n").get("{t}n").exec(), ["OK", 2, "2"]);
  await client.watch("{t}n");
  await other.set("{t}n", "5");
  await assert.rejects(client.multi().set("{t}n", "6").exec(), WatchError);
  await client.watch("{t}n");
  assert.deepEqual(await client.multi().incr("{t}n").exec(), [6]);
  assert.equal(await client.get("{t}n"), "6");
}

async function pubsub(client, listener) {
  const messages = gather(3);
  await listener.subscribe(["news", "other"], (text, channel) => messages.take("to", channel, text));
  await listener.pSubscribe("n*", (text, channel) => messages.take("by n*", channel, text));
  assert.equal(await client.publish("news", "one"), 2);
  assert.equal(await client.publish("other", "two"), 1);
  assert.deepEqual(await messages.all, ["by n* news one", "to news one", "to other two"]);
  await listener.unsubscribe();
  await listener.pUnsubscribe();
  assert.equal(await client.publish("news", "three"), 0);
}

async function plain(port) {
  for (const RESP of [2, 3]) {
    const [client, other] = [0, 1].map(() => createClient({ socket: { port }, RESP }));
    await Promise.all([client.connect(), other.connect()]);
    await crud(client);
    await pipelines(client);
    await transactions(client, other);
    await pubsub(client, other);
    await Promise.all([client.close(), other.close()]);
  }
}

async function cluster(port, ...shardPorts) {
  for (const RESP of [2, 3]) {
    for (const start of [port, ...shardPorts]) {
      const client = createCluster({ rootNodes: [{ url: `redis://127.0.0.1:${start}` }], RESP });
      await client.connect();
      const nodes = client.masters.map((node) => node.port).sort();
      assert.deepEqual(nodes, [...shardPorts].sort());
      const numbers = Array.from({ length: 500 }, (_, n) => n);
      await Promise.all(numbers.map((n) => client.set(`c:${n}`, n.toString())));
      const got = await Promise.all(numbers.map((n) => client.get(`c:${n}`)));
      assert.deepEqual(got, numbers.map(String));
      for (const tag of ["{a}", "{b}", "{c}", "{d}"]) {
        assert.deepEqual(await client.multi().set(tag, "1").incr(tag).exec(), ["OK", 2]);
        assert.deepEqual(await client.mGet([`${tag}x`, tag]), [null, "2"]);
      }
      const messages = gather(2);
      await client.subscribe("news", (text, channel) => messages.take(channel, text));
      await client.sSubscribe("shard", (text, channel) => messages.take("s", channel, text));
      assert.equal(await client.publish("news", "one"), 1);
      assert.equal(await client.sPublish("shard", "two"), 1);
      assert.deepEqual(await messages.all, ["news one", "s shard two"]);
      await client.close();
    }
  }
}

// Several nodes: who asks for it has its reads answered by those that follow.
async function replicas(port) {
  const rootNodes = [{ url: `redis://127.0.0.1:${port}` }];
  const numbers = Array.from({ length: 300 }, (_, n) => n);
  for (const RESP of [2, 3]) {
    const client = createCluster({ rootNodes, RESP, useReplicas: true });
    await client.connect();
    assert.ok(client.replicas.length > 0, "replicas are known");
    await eventually(() => Promise.all(numbers.map((n) => client.set(`r:${n}`, n.toString()))));
    await eventually(async () => {
      const got = await Promise.all(numbers.map((n) => client.get(`r:${n}`)));
      assert.deepEqual(got, numbers.map(String));
    });
    await client.close();
  }
}

run({ plain, cluster, replicas });
