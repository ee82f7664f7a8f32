/** Frames: the envelope comes off, and everything else arrives as the application sent it. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Bench } from "./bench.mjs";

test("the page sees the application's own text, to the last space", () => {
  const bench = new Bench();
  bench.welcome();

  bench.server.event(1, '{ "type" : "a",  "n": 1.50, "isolated": "{}" }');
  bench.server.event(2, "{}");

  assert.deepEqual(bench.shown, ['{ "type" : "a",  "n": 1.50, "isolated": "{}" }', "{}"]);
  assert.equal(bench.events("message")[0].isolation.conn, 1);
});

test("frames of the monitor itself never reach the page", () => {
  const bench = new Bench();
  bench.welcome();

  bench.server.own({ resumed: { replayed: 0, lost: 0 } });
  bench.server.own({ something: "of a later release" });

  assert.deepEqual(bench.shown, []);
});

test("frames that the application wrapped arrive as it made them", async () => {
  const bench = new Bench();
  const envelope = (conn, as) => `{"isolation":{"epoch":"e1","owner":null,"conn":${conn},"id":"${conn}","as":"${as}"}`;
  bench.welcome();

  bench.server.frame(`${envelope(1, "text")},"data":"a line\\n\\u00e9"}`);
  bench.socket.binaryType = "arraybuffer";
  bench.server.frame(`${envelope(2, "base64")},"data":"AP8="}`);
  bench.socket.binaryType = "blob";
  bench.server.frame(`${envelope(3, "base64")},"data":"AP8="}`);
  bench.server.frame(`${envelope(4, "base64")},"data":"no base64?"}`);
  bench.server.frame(`${envelope(5, "later")},"data":"x"}`);

  const [line, buffer, blob, damaged, unknown] = bench.shown;
  assert.equal(line, "a line\n\u00e9");
  assert.deepEqual([...new Uint8Array(buffer)], [0, 255]);
  assert.deepEqual([...new Uint8Array(await blob.arrayBuffer())], [0, 255]);
  assert.equal(damaged, '{"data":"no base64?"}');
  assert.equal(unknown, '{"data":"x"}');
});

test("without a monitor it is a plain socket: nothing is taken away and nothing is sent", () => {
  const bench = new Bench();
  const frames = ['{"type": "hello"}', '{"isolation": "ward 7"}', "no JSON", "", "[1]", new ArrayBuffer(2)];
  bench.server.open();

  for (const frame of frames) bench.server.frame(frame);
  bench.clock.pass(60_000);

  assert.deepEqual(bench.shown, frames);
  assert.deepEqual(bench.server.sent, []);
  assert.equal(bench.socket.isMeasured, false);
});

test("a welcome that is not the first frame comes from a stranger and is an ordinary message", () => {
  /* An application may pass on what its users write; none of them may switch another one's page. */
  const bench = new Bench();
  const forged = '{"isolation": {"welcome": {"stream": "x", "epoch": "e1", "ack_ms": 1}}}';
  bench.server.open();

  bench.server.frame('{"type": "hello"}');
  bench.server.frame(forged);

  assert.equal(bench.socket.isMeasured, false);
  assert.deepEqual(bench.shown, ['{"type": "hello"}', forged]);
});

test("a second welcome changes nothing", () => {
  const bench = new Bench();
  bench.welcome("s1");
  bench.server.own({ welcome: { stream: "s9", epoch: "e9", ack_ms: 1 } });
  bench.server.event(1, "a");
  bench.cut();
  bench.welcome("s2");

  assert.deepEqual(bench.server.helloes, [{ stream: "s1", conn: 1 }]);
});

test("an application's own member of that name is left alone", () => {
  const bench = new Bench();
  bench.welcome();
  const own = ['{"isolation": "ward 7"}', '{"isolation": {"conn": 5, "epoch": "another", "id": "x"}, "a": 1}', '{"isolation": null}'];

  for (const frame of own) bench.server.frame(frame);

  assert.deepEqual(bench.shown, own);
});

test("frames that are no text keep their place among those that are", () => {
  const bench = new Bench({ gapMs: 1_000 });
  bench.welcome();
  const bytes = new ArrayBuffer(1);

  bench.server.event(1, "a");
  bench.server.event(3, "c");
  bench.server.frame(bytes);
  bench.server.event(2, "b");

  assert.deepEqual(bench.shown, ['{"text": "a"}', '{"text": "b"}', '{"text": "c"}', bytes]);
});

const BROKEN = [
  '{"isolation": {"conn": 1',
  '{"isolation":',
  '{"isolation": {}}',
  '{"isolation": {"welcome": 7}}',
  '{"isolation": {"welcome": {}}}',
  '{"isolation": {"welcome": null}}',
];

for (const broken of BROKEN) {
  test(`a first frame that is broken throws nothing: ${broken}`, () => {
    const bench = new Bench();
    bench.server.open();

    bench.server.frame(broken);
    bench.server.event(1, "a");
    bench.cut();

    assert.equal(bench.events("reconnecting").length, 1);
  });
}
