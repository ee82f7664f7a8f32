/** Resuming: after a cut every event is shown once and in order, and what is lost is said. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Bench, body } from "./bench.mjs";

test("what was on its way is sent again, and only the rest is shown", () => {
  const bench = new Bench();
  bench.welcome("s1");
  bench.server.event(1, "a");
  bench.server.event(2, "b");
  bench.cut();
  bench.welcome("s2");

  assert.deepEqual(bench.server.helloes, [{ stream: "s1", conn: 2 }]);
  bench.server.own({ resumed: { replayed: 2, lost: 0 } });
  bench.server.event(1, "b");
  bench.server.event(2, "c");
  bench.server.event(3, "d");
  bench.clock.pass(1_000);

  assert.deepEqual(bench.shown, ["a", "b", "c", "d"].map(body));
  assert.equal(bench.server.acks.at(-1).ack, 3);
  assert.equal(bench.server.acks.at(-1).duplicates, 0, "sent again by right");
  assert.equal(bench.socket.counts.repeated, 1);
  assert.equal(bench.events("lost").length, 0);
});

test("live events wait until what they follow was sent again", () => {
  const bench = new Bench();
  bench.welcome("s1");
  bench.server.event(1, "a");
  bench.cut();
  bench.welcome("s2");

  bench.server.event(1, "greeting");
  assert.deepEqual(bench.shown, [body("a")]);
  bench.server.own({ resumed: { replayed: 1, lost: 0 } });
  bench.server.event(2, "b");
  bench.server.event(3, "c");

  assert.deepEqual(bench.shown, ["a", "b", "greeting", "c"].map(body));
});

test("what was lost is said, with its number", () => {
  const bench = new Bench();
  bench.welcome("s1");
  bench.cut();
  bench.welcome("s2");

  bench.server.own({ resumed: { replayed: 0, lost: 7 } });

  assert.deepEqual(bench.events("lost").map(({ count, replayed }) => [count, replayed]), [[7, 0]]);
  assert.equal(bench.socket.counts.lost, 7);
});

test("a server that does not know the stream makes the loss unknown", () => {
  for (const resumed of [{ replayed: 0, lost: null }, { replayed: "many", lost: "some" }, {}]) {
    const bench = new Bench();
    bench.welcome("s1");
    bench.cut();
    bench.welcome("s2");

    bench.server.own({ resumed });
    bench.server.event(1, "live");

    assert.deepEqual(bench.events("lost").map(({ count }) => count), [null]);
    assert.deepEqual(bench.shown, [body("live")]);
  }
});

test("what waits for an answer is bounded, within a connection and over many", () => {
  const slow = new Bench({ hold: 3, resumeMs: 3_600_000 });
  slow.welcome("s1");
  slow.cut();
  slow.welcome("s2");
  for (let n = 1; n <= 4; n += 1) slow.server.event(n, `${n}`);
  const flapping = new Bench({ hold: 3 });
  flapping.welcome("s0");
  for (let n = 1; n <= 5; n += 1) {
    flapping.cut();
    flapping.welcome(`s${n}`);
    flapping.server.event(1, `${n}`);
  }

  assert.deepEqual(slow.shown, ["1", "2", "3", "4"].map(body));
  assert.deepEqual(flapping.shown, ["1"].map(body));
});

test("a server that does not answer, or no longer measures, makes the loss unknown and holds up nothing", () => {
  const silent = new Bench({ resumeMs: 5_000 });
  silent.welcome("s1");
  silent.cut();
  silent.welcome("s2");
  silent.server.event(1, "live");
  silent.clock.pass(5_000);
  const plain = new Bench();
  plain.welcome("s1");
  plain.cut();
  plain.server.open();
  plain.server.frame("hello");

  assert.deepEqual(silent.shown, [body("live")]);
  assert.deepEqual(plain.shown, ["hello"]);
  for (const bench of [silent, plain]) {
    assert.deepEqual(bench.events("lost").map(({ count }) => count), [null]);
    assert.equal(bench.socket.counts.unknownLosses, 1);
    assert.equal(bench.socket.counts.lost, 0);
  }
});

test("a cut before the answer asks for both streams, the older first", () => {
  /* Nobody knows whether the server got the first hello: what waits may be on either stream. */
  const bench = new Bench();
  bench.welcome("s1");
  bench.server.event(1, "a");
  bench.cut();
  bench.welcome("s2");
  bench.server.event(1, "live");
  bench.cut();
  bench.welcome("s3");

  assert.deepEqual(bench.server.helloes, [{ stream: "s1", conn: 1 }, { stream: "s2", conn: 1 }]);
  bench.server.event(1, "later");
  bench.server.own({ resumed: { replayed: 1, lost: 0 } });
  bench.server.event(2, "b");
  bench.server.own({ resumed: { replayed: 0, lost: 0 } });

  assert.deepEqual(bench.shown, ["a", "b", "live", "later"].map(body));
});

test("a cut in the middle of what is sent again goes on from there", () => {
  const bench = new Bench();
  bench.welcome("s1");
  bench.cut();
  bench.welcome("s2");
  bench.server.own({ resumed: { replayed: 3, lost: 0 } });
  bench.server.event(1, "a");
  bench.cut();
  bench.welcome("s3");

  assert.deepEqual(bench.server.helloes, [{ stream: "s2", conn: 1 }]);
  bench.server.own({ resumed: { replayed: 2, lost: 0 } });
  bench.server.event(1, "b");
  bench.server.event(2, "c");

  assert.deepEqual(bench.shown, ["a", "b", "c"].map(body));
});

test("the first connection asks for nothing", () => {
  const bench = new Bench();
  bench.cut();
  bench.welcome("s1");

  assert.deepEqual(bench.server.helloes, []);
});

test("a hundred connections that fail leave a bounded memory", () => {
  const bench = new Bench();
  for (let n = 1; n <= 100; n += 1) {
    bench.welcome(`s${n}`);
    bench.cut();
  }
  bench.welcome("last");

  assert.equal(bench.events("lost").length, 92, "what is no longer asked for is said");
  assert.deepEqual(bench.server.helloes.map(({ stream }) => stream), ["s93", "s94", "s95", "s96", "s97", "s98", "s99", "s100"]);
});

test("ids are remembered up to a limit", () => {
  const bench = new Bench({ remember: 2 });
  bench.welcome();

  ["a", "b", "c", "b", "a"].forEach((word, n) => bench.server.event(n + 1, word));

  assert.deepEqual(bench.shown, ["a", "b", "c", "a"].map(body));
});

test("what still waits for its turn is shown when the socket is closed for good", () => {
  const bench = new Bench();
  bench.welcome("s1");
  bench.cut();
  bench.welcome("s2");
  bench.server.event(1, "waiting");

  bench.socket.close();
  bench.server.fall(1000);

  assert.deepEqual(bench.shown, [body("waiting")]);
  assert.equal(bench.told.at(-1).type, "close");
});
