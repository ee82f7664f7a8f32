/** Order on one connection: gaps, duplicates and disorder are seen, counted, and kept from the user. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Received } from "../../../../telemetry/clients/javascript/received.js";
import { Bench, body } from "./bench.mjs";

test("frames that overtook each other are shown in order", () => {
  const bench = new Bench();
  bench.welcome();

  for (const [n, word] of [[1, "a"], [4, "d"], [3, "c"], [2, "b"]]) bench.server.event(n, word);
  bench.clock.pass(10_000);

  assert.deepEqual(bench.shown, ["a", "b", "c", "d"].map(body));
  assert.deepEqual(bench.server.acks.at(-1), { ack: 4, gaps: 0, duplicates: 0, disorder: 2 });
  assert.equal(bench.events("gap").length, 0);
});

test("a frame that comes twice is shown once", () => {
  const bench = new Bench();
  bench.welcome();

  bench.server.event(1, "a");
  bench.server.event(1, "a");
  bench.clock.pass(1_000);

  assert.deepEqual(bench.shown, [body("a")]);
  assert.equal(bench.server.acks.at(-1).duplicates, 1);
});

test("an event that comes again under another number is shown once", () => {
  const bench = new Bench();
  bench.welcome();

  bench.server.event(1, "a", { id: "one" });
  bench.server.event(2, "a", { id: "one" });

  assert.deepEqual(bench.shown, [body("a")]);
  assert.equal(bench.socket.counts.repeated, 1);
});

test("a frame that stays away is said, asked for again on a new connection, and shown in its place", () => {
  const bench = new Bench({ gapMs: 1_000 });
  bench.welcome("s1");
  bench.server.event(1, "a");
  bench.server.event(3, "c");
  bench.server.event(4, "d");

  bench.clock.pass(1_000);
  assert.deepEqual(bench.shown, [body("a")]);
  assert.deepEqual(bench.connections[0].closedWith.code, 4000);
  assert.deepEqual(bench.connections[0].acks.at(-1), { ack: 1, gaps: 1, duplicates: 0, disorder: 0 });
  bench.clock.pass(500);
  bench.welcome("s2");
  assert.deepEqual(bench.server.helloes, [{ stream: "s1", conn: 1 }]);
  bench.server.own({ resumed: { replayed: 3, lost: 0 } });
  for (const [n, word] of [[1, "b"], [2, "c"], [3, "d"], [4, "e"]]) bench.server.event(n, word);

  assert.deepEqual(bench.shown, ["a", "b", "c", "d", "e"].map(body));
  const [gap] = bench.events("gap");
  assert.deepEqual([gap.source, gap.first, gap.last], ["connection", 2, 2]);
});

test("frames of a connection that was given up are not shown any more", () => {
  const bench = new Bench({ gapMs: 1_000 });
  bench.welcome("s1");
  bench.server.event(2, "b");
  bench.clock.pass(1_000);

  bench.connections[0].event(3, "late");

  assert.deepEqual(bench.shown, []);
});

test("a server with a standing gap does not make the page flap: what is there is shown", () => {
  const bench = new Bench({ gapMs: 1_000, stableMs: 60_000 });
  bench.welcome("s1");
  bench.server.event(2, "b");
  bench.clock.pass(1_500);
  bench.welcome("s2");
  bench.server.own({ resumed: { replayed: 1, lost: 0 } });
  bench.server.event(2, "b");
  bench.server.event(4, "d");
  bench.clock.pass(1_000);

  assert.deepEqual(bench.shown, ["b", "d"].map(body));
  assert.equal(bench.connections.length, 2);
  assert.deepEqual(bench.server.acks.at(-1), { ack: 0, gaps: 2, duplicates: 0, disorder: 0 });
  bench.server.event(3, "c");
  assert.deepEqual(bench.shown.at(-1), body("c"), "late, but the user's all the same");
});

test("what is held back is bounded", () => {
  const bench = new Bench({ hold: 10, gapMs: 3_600_000 });
  bench.welcome();

  for (let n = 2; n <= 13; n += 1) bench.server.event(n, `${n}`);

  assert.equal(bench.events("gap").length, 1);
});

test("a number that is missing in a run alone is the application's", () => {
  const bench = new Bench();
  bench.welcome();

  bench.server.event(1, '{"type": "agent_started", "run_id": "r1"}', { id: "1", run: 1 });
  bench.server.event(2, '{"type": "agent_started", "run_id": "r2"}', { id: "2", run: 1 });
  bench.server.event(3, '{"type": "agent_completed", "run_id": "r1"}', { id: "3", run: 4 });
  bench.server.event(4, '{"type": "agent_completed", "run_id": "r2"}', { id: "4", run: 2 });

  const gaps = bench.events("gap").map(({ source, run, first, last }) => [source, run, first, last]);
  assert.deepEqual(gaps, [["run", "r1", 2, 3]]);
  assert.equal(bench.connections.length, 1);
});

test("runs are remembered up to a limit", () => {
  const bench = new Bench();
  bench.welcome();

  for (let n = 1; n <= 300; n += 1) bench.server.event(n, `{"run_id": "r${n}"}`, { id: `${n}`, run: 1 });
  bench.server.event(301, '{"run_id": "r1"}', { id: "301", run: 5 });
  bench.server.event(302, '{"run_id": "r300"}', { id: "302", run: 5 });

  assert.deepEqual(bench.events("gap").map(({ run }) => run), ["r300"]);
});

test("whatever the order of arrival, items come out once each, ascending where nothing was given up", () => {
  /* A thousand random orders with repetitions; the seed makes a failure come again. */
  let seed = 42;
  const random = (below) => (seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31) % below;
  for (let round = 0; round < 1_000; round += 1) {
    const numbers = Array.from({ length: 1 + random(12) }, (_, i) => i + 1);
    const arriving = [...numbers, ...numbers.filter(() => random(4) === 0)];
    for (let i = arriving.length - 1; i > 0; i -= 1) {
      const j = random(i + 1);
      [arriving[i], arriving[j]] = [arriving[j], arriving[i]];
    }
    const received = new Received();

    const out = arriving.flatMap((number) => received.take(number, number));

    assert.deepEqual(out, numbers, `arriving: ${arriving}`);
    assert.equal(received.contiguous, numbers.length);
    assert.equal(received.duplicates, arriving.length - numbers.length);
  }
});

test("an absurd number costs no memory and acknowledges nothing", () => {
  const received = new Received();

  for (let n = 1; n <= 2_000; n += 1) received.take(n * 1_000_000_000, n);
  received.giveUp();

  assert.equal(received.contiguous, 0);
  assert.equal(received.release().length, 2_000);
});
