/** Acknowledging: cumulative, bounded in number, and never more than what arrived. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Bench, body } from "./bench.mjs";

test("frames are acknowledged together, as often as the server asks, and silence costs nothing", () => {
  const bench = new Bench();
  bench.welcome("s", "e1", 200);

  for (const n of [1, 2, 3]) bench.server.event(n, `${n}`);
  bench.clock.pass(199);
  assert.deepEqual(bench.server.acks, []);
  bench.clock.pass(1);
  assert.equal(bench.server.acks.length, 1);
  bench.clock.pass(60_000);

  assert.deepEqual(bench.server.acks, [{ ack: 3, gaps: 0, duplicates: 0, disorder: 0 }]);
});

for (const type of ["agent_completed", "agent_error", "agent_cancelled"]) {
  test(`the end of a run is acknowledged at once: ${type}`, () => {
    const bench = new Bench();
    bench.welcome();

    bench.server.event(1, '{"type": "agent_started", "run_id": "r"}', { id: "1", run: 1 });
    assert.equal(bench.server.acks.length, 0);
    bench.server.event(2, `{"type": "${type}", "run_id": "r"}`, { id: "2", run: 2 });

    assert.equal(bench.server.acks[0].ack, 2);
  });
}

test("names of the application's events are options", () => {
  const bench = new Bench({ eventField: "kind", endEvents: ["over"] });
  bench.welcome();

  bench.server.event(1, '{"kind": "over"}', { run: 1 });

  assert.equal(bench.server.acks[0].ack, 1);
});

test("a page that says how often is not overruled", () => {
  const bench = new Bench({ ackMs: 50 });
  bench.welcome("s", "e1", 200);

  bench.server.event(1, "a");
  bench.clock.pass(50);

  assert.equal(bench.server.acks.length, 1);
});

test("nothing behind a missing frame is acknowledged", () => {
  const bench = new Bench({ gapMs: 1_000 });
  bench.welcome();

  bench.server.event(1, "a");
  bench.server.event(3, "c");
  bench.clock.pass(500);

  assert.equal(bench.server.acks.at(-1).ack, 1);
});

/** Stand in for a page's window while `act` runs; `act` gets it. Returns what listened to it and was not taken off. */
function onPage(act) {
  const page = new EventTarget();
  const listening = new Set();
  const before = { add: globalThis.addEventListener, remove: globalThis.removeEventListener };
  globalThis.addEventListener = (type, listener) => {
    listening.add(listener);
    page.addEventListener(type, listener);
  };
  globalThis.removeEventListener = (type, listener) => {
    listening.delete(listener);
    page.removeEventListener(type, listener);
  };
  try {
    act(page);
  } finally {
    globalThis.addEventListener = before.add;
    globalThis.removeEventListener = before.remove;
  }
  return listening;
}

test("a page that is left acknowledges what it has, once", () => {
  onPage((page) => {
    const bench = new Bench();
    bench.welcome();
    bench.server.event(1, "a");

    page.dispatchEvent(new Event("pagehide"));
    page.dispatchEvent(new Event("pagehide"));

    assert.deepEqual(bench.server.acks.map(({ ack }) => ack), [1]);
  });
});

test("an object that is done lets go of the page", () => {
  const listening = onPage((page) => {
    const bench = new Bench();
    bench.welcome();

    bench.socket.close();
    bench.server.fall(1000);
    page.dispatchEvent(new Event("online"));

    assert.equal(bench.connections.length, 1);
  });

  assert.equal(listening.size, 0);
});

test("a network that is back is used at once, and once", () => {
  onPage((page) => {
    const bench = new Bench();
    bench.welcome();
    bench.server.fall();

    page.dispatchEvent(new Event("online"));
    page.dispatchEvent(new Event("online"));
    bench.clock.pass(60_000);

    assert.equal(bench.connections.length, 2);
  });
});

test("closing acknowledges first", () => {
  const bench = new Bench();
  bench.welcome();
  bench.server.event(1, "a");

  bench.socket.close();

  assert.equal(bench.server.acks[0].ack, 1);
  assert.deepEqual(bench.shown, [body("a")]);
});
