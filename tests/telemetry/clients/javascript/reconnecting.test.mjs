/** Reconnecting: when, how often, and when not. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { IsolationSocket } from "../../../../telemetry/clients/javascript/isolation-socket.js";
import { Bench, ServerSide } from "./bench.mjs";

const delays = (bench) => bench.events("reconnecting").map(({ delayMs }) => delayMs);

test("the pause doubles up to its limit, and chance shortens it", () => {
  const longest = new Bench({ random: () => 1, firstRetryMs: 500, longestRetryMs: 4_000 });
  const shortest = new Bench({ random: () => 0, firstRetryMs: 500, longestRetryMs: 4_000 });

  for (const bench of [longest, shortest]) for (let n = 0; n < 6; n += 1) bench.cut();

  assert.deepEqual(delays(longest), [500, 1000, 2000, 4000, 4000, 4000]);
  assert.deepEqual(delays(shortest), [250, 500, 1000, 2000, 2000, 2000]);
});

test("a server that accepts and closes at once is not stormed; a connection that lasted starts over", () => {
  const bench = new Bench({ stableMs: 10_000 });
  for (let n = 0; n < 3; n += 1) {
    bench.welcome();
    bench.cut(1011);
  }
  bench.welcome();
  bench.clock.pass(10_000);
  bench.cut(1012);

  assert.deepEqual(delays(bench), [500, 1000, 2000, 500]);
});

for (const code of [1000, 1008, 4401, 4403]) {
  test(`close code ${code} is the end`, () => {
    const bench = new Bench();
    bench.welcome();

    bench.cut(code);

    assert.equal(bench.connections.length, 1);
    assert.equal(bench.events("close")[0].code, code);
    assert.equal(bench.socket.readyState, IsolationSocket.CLOSED);
    assert.equal(bench.clock.pending, 0);
  });
}

test("which codes are the end is the application's to say, and its mistakes end nothing", () => {
  const listed = new Bench({ finalCodes: [4404] });
  const told = new Bench({ finalCodes: (code) => code >= 4400 && code < 4500 });
  const broken = new Bench({ finalCodes: () => { throw new Error("a defect"); } }); // prettier-ignore

  listed.cut(4401);
  told.cut(4477);
  broken.cut(4401);

  assert.deepEqual([listed, told, broken].map((bench) => bench.connections.length), [2, 1, 2]);
});

test("each attempt asks for a fresh address, and one that cannot be had is tried again", async () => {
  const answers = ["/a", new Error("no token now"), "/b"];
  const url = async () => {
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    return `wss://chat.test${answer}`;
  };
  const bench = new Bench({}, url);
  const settled = () => new Promise((resolve) => setImmediate(resolve));
  await settled();

  bench.cut();
  await settled();
  bench.clock.pass(20_000);
  await settled();

  assert.deepEqual(bench.connections.map(({ url }) => url), ["wss://chat.test/a?isolation=1", "wss://chat.test/b?isolation=1"]);
});

test("the address keeps its query as it was written", () => {
  const url = (address) => new Bench({}, address).server.url;

  assert.equal(url("ws://chat.test/ws"), "ws://chat.test/ws?isolation=1");
  assert.equal(url("https://chat.test/ws?token=a%20b+c&x#top"), "wss://chat.test/ws?token=a%20b+c&x&isolation=1");
  assert.equal(url(new URL("ws://chat.test/ws?isolation=1")), "ws://chat.test/ws?isolation=1");
});

test("what cannot be used fails while the object is made, with a remedy", () => {
  const make = (url, options) => () => new IsolationSocket(url, { WebSocket: ServerSide, ...options });

  assert.throws(make("no address"), { name: "SyntaxError", message: /use one such as wss:/ });
  assert.throws(make("ws://chat.test", { retryMs: 5 }), { name: "TypeError", message: /unknown option retryMs: use one of/ });
  assert.throws(make("ws://chat.test", { gapMs: "1s" }), { name: "TypeError", message: /gapMs: 1s/ });
  assert.throws(make("ws://chat.test", { WebSocket: null, ...(globalThis.WebSocket ? { ackMs: -1 } : {}) }), TypeError);
});

test("sending without a connection says so and throws nothing", () => {
  const bench = new Bench();
  assert.equal(bench.socket.send("early"), false);
  bench.welcome();
  assert.equal(bench.socket.send("now"), true);
  bench.server.fall();
  assert.equal(bench.socket.send("late"), false);

  assert.deepEqual(bench.connections[0].sent, ["now"]);
});

test("closing while waiting for the next attempt ends it", () => {
  const bench = new Bench();
  bench.server.fall();

  bench.socket.close();
  assert.equal(bench.socket.readyState, IsolationSocket.CLOSING);
  bench.clock.pass(60_000);

  assert.equal(bench.connections.length, 1);
  assert.equal(bench.events("close").length, 1);
});

test("a close code that no WebSocket takes closes all the same", () => {
  const bench = new Bench();
  bench.welcome();

  bench.socket.close(77);
  bench.server.fall(1005);

  assert.equal(bench.socket.readyState, IsolationSocket.CLOSED);
});

test("handlers set as on a WebSocket are called with it, replaced and taken off", () => {
  const bench = new Bench();
  const calls = [];
  bench.socket.onopen = function () { calls.push(["first", this === bench.socket]); }; // prettier-ignore
  bench.socket.onopen = function () { calls.push(["second", this === bench.socket]); }; // prettier-ignore
  bench.socket.onmessage = ({ data }) => calls.push(data);
  bench.welcome();
  bench.server.event(1, "{}");
  bench.socket.onmessage = null;
  bench.server.event(2, "{}");

  assert.deepEqual(calls, [["second", true], "{}"]);
  assert.equal(bench.socket.onmessage, null);
});
