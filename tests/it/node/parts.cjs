"use strict";
// What the scripts share: `SCRIPT PART PORT [SHARD_PORT...]`; exit code 77: the client is not there.

const assert = require("node:assert/strict");

const [name, ...ports] = process.argv.slice(2);

exports.load = (client) => {
  try {
    return require(client);
  } catch (reason) {
    console.log(String(reason).split("\n")[0]);
    process.exit(77);
  }
};

/** The text that a promise is rejected with. */
exports.refused = async (promise) => {
  const outcome = await promise.then((value) => ({ value }), (error) => ({ error }));
  assert.ok(outcome.error, `not refused: ${JSON.stringify(outcome.value)}`);
  return String(outcome.error.message);
};

/** A sink of messages, and the promise of the first `count` of them, sorted. */
exports.gather = (count) => {
  const got = [];
  let done;
  const all = new Promise((resolve) => (done = resolve));
  const take = (...message) => got.push(message.map(String).join(" ")) === count && done(got.sort());
  return { take, all };
};

/** Tries until it succeeds: a replica may lag behind for a moment, and leaders have just moved. */
exports.eventually = async (attempt) => {
  const end = Date.now() + 15_000;
  for (;;) {
    const outcome = await attempt().then(() => null, (error) => error);
    if (!outcome) return;
    if (Date.now() > end) throw outcome;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};

exports.run = async (parts) => {
  // Nothing here takes that long: who waits for more has found a hang.
  setTimeout(() => fail(new Error(`${name} hangs`)), 40_000).unref();
  await parts[name](...ports.map(Number)).catch(fail);
  process.exit(0);
};

const fail = (error) => {
  console.log(error.stack || error);
  process.exit(1);
};
