/**
 * One connection: reads the monitor's frames, acknowledges, and asks for what an earlier connection missed.
 *
 * The first frame decides. If it is the monitor's welcome, the connection is measured; otherwise every frame goes to the
 * page as it came, and nothing of ours is ever sent.
 */

import { readFrame } from "./frame.js";
import { Received } from "./received.js";

// Streams that no server has answered for. Each is of a connection that failed right after its welcome.
const MOST_STREAMS = 8;
// Beyond it, platforms do not wait at all.
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export class Connection {
  /** True once the monitor has welcomed this connection. */
  isMeasured = false;
  #stream = null;
  #epoch = null;
  #isFirst = true;
  #isOver = false;
  #received = new Received();
  #early = []; // live frames that came before what they follow was sent again
  #helloes = []; // earlier streams whose hello is not answered yet
  #replays = 0; // frames sent again that are still to come
  #ackedAs = "0,0,0,0";
  #timers = new Map();

  /**
   * @param {WebSocket} socket the platform's own, just made
   * @param {Past} past what earlier connections left: frames not shown yet, streams not resumed yet
   * @param {object} page where results go: `show(frame)`, `gap(detail)`, `lost(detail)`, `reconnect(reason)`, which returns
   *   false when it may not
   * @param {object} settings times in milliseconds, limits, `clock`, `endEvent`
   */
  constructor(socket, past, page, settings) {
    this.socket = socket;
    this.past = past;
    this.page = page;
    this.settings = settings;
    this.ackMs = settings.ackMs;
  }

  /** Take one frame as it came from the WebSocket. */
  receive(data) {
    const isFirst = this.#isFirst;
    this.#isFirst = false;
    const frame = isFirst || this.isMeasured ? readFrame(data, this.#epoch, this.socket.binaryType) : null;
    // Only first: an application may pass on what its users write, and a forged welcome must not come from one of them.
    if (isFirst && typeof frame.own?.welcome?.stream === "string") return this.#welcome(frame.own.welcome);
    if (!this.isMeasured) {
      if (isFirst) this.#cannotResume();
      return this.page.show({ data, envelope: null });
    }
    if (frame.own) {
      if (frame.own.resumed && this.#helloes.length) this.#resumed(frame.own.resumed);
      return;
    }
    for (const ready of this.#received.take(frame.envelope?.conn ?? 0, frame)) this.#inOrder(ready);
    this.#watchGap();
    if (frame.envelope) this.#acknowledgeSoon(frame);
  }

  /** Send what is not acknowledged yet, now: the page is about to go. */
  acknowledge() {
    this.#stop("ack");
    if (!this.isMeasured) return;
    const { contiguous, gaps, duplicates, disorder } = this.#received;
    const state = [contiguous, gaps, duplicates, disorder].join();
    if (state !== this.#ackedAs && this.#send({ ack: contiguous, gaps, duplicates, disorder })) this.#ackedAs = state;
  }

  /** The connection is gone: leave to the next one what it needs. */
  end() {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const name of [...this.#timers.keys()]) this.#stop(name);
    if (!this.isMeasured) return;
    for (const frame of this.past.keep([...this.#received.release(), ...this.#early])) this.page.show(frame);
    const streams = [...this.#helloes, { stream: this.#stream, conn: this.#received.contiguous }];
    this.past.streams = streams.slice(-MOST_STREAMS);
    if (streams.length > MOST_STREAMS) this.page.lost({ count: null, replayed: 0 });
  }

  // --- the monitor's frames ---------------------------------------------------------------------------------------------

  #welcome({ stream, epoch, ack_ms: ackMs }) {
    this.isMeasured = true;
    this.#stream = stream;
    this.#epoch = epoch;
    if (this.settings.ackMs === null && ackMs > 0) this.ackMs = ackMs;
    this.#helloes = this.past.streams;
    this.past.streams = [];
    for (const hello of this.#helloes) this.#send({ hello });
    if (this.#helloes.length) this.#start("resume", this.settings.resumeMs, () => this.#cannotResume());
    else this.#caughtUp();
  }

  #resumed({ replayed, lost }) {
    this.#helloes.shift();
    const again = countIn(replayed) ?? 0;
    this.#replays += again;
    if (lost !== 0) this.page.lost({ count: countIn(lost), replayed: again });
    this.#catchUp();
  }

  /** Nobody answers for the earlier streams: what they still had to bring is lost, and nobody knows how much it is. */
  #cannotResume() {
    const isLost = this.#helloes.length > 0 || this.past.streams.length > 0;
    this.#helloes = this.past.streams = [];
    this.#replays = 0;
    if (isLost) this.page.lost({ count: null, replayed: 0 });
    this.#caughtUp();
  }

  // --- order ------------------------------------------------------------------------------------------------------------

  #inOrder(frame) {
    if (this.#replays > 0 && frame.envelope) {
      this.#replays -= 1;
      this.page.show(frame);
      this.#catchUp();
    } else if (this.#isBehind) {
      this.#early.push(frame);
      if (this.#early.length > this.settings.hold) this.#cannotResume();
    } else {
      this.page.show(frame);
    }
  }

  get #isBehind() {
    return this.#helloes.length > 0 || this.#replays > 0;
  }

  #catchUp() {
    if (!this.#isBehind) this.#caughtUp();
  }

  #caughtUp() {
    this.#stop("resume");
    const waiting = [...this.past.takeFrames(), ...this.#early];
    this.#early = [];
    for (const frame of waiting) this.page.show(frame);
  }

  #watchGap() {
    if (!this.#received.isWaiting) this.#stop("gap");
    else if (this.#received.heldCount > this.settings.hold) this.#gapStays();
    else if (!this.#timers.has("gap")) this.#start("gap", this.settings.gapMs, () => this.#gapStays());
  }

  #gapStays() {
    this.#stop("gap");
    for (const [first, last] of this.#received.giveUp()) this.page.gap({ source: "connection", run: null, first, last });
    this.acknowledge();
    // A new connection has it sent again, from the gap on. Where that was tried just now, go on without it.
    if (!this.page.reconnect("a frame did not arrive")) for (const frame of this.#received.release()) this.#inOrder(frame);
  }

  // --- sending and waiting ----------------------------------------------------------------------------------------------

  #acknowledgeSoon({ data, envelope }) {
    if (envelope.run !== undefined && this.settings.endEvent.test(data)) this.acknowledge();
    else if (!this.#timers.has("ack")) this.#start("ack", this.ackMs ?? 500, () => this.acknowledge());
  }

  #send(content) {
    try {
      this.socket.send(JSON.stringify({ isolation: content }));
      return true;
    } catch {
      // Closing already: the close event follows, and the next connection says it again.
      return false;
    }
  }

  #start(name, afterMs, act) {
    const run = () => {
      this.#timers.delete(name);
      act();
    };
    this.#timers.set(name, this.settings.clock.setTimeout(run, Math.min(afterMs, LONGEST_TIMER_MS)));
  }

  #stop(name) {
    this.settings.clock.clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

/** Return a count that the server sent, or null for everything that is none: then nobody knows. */
function countIn(value) {
  return Number.isSafeInteger(value) && value >= 0 ? value : null;
}

/** What the connections of one socket leave to each other. */
export class Past {
  /** `{stream, conn}` of connections that ended and are not resumed yet, oldest first. */
  streams = [];
  #frames = [];

  constructor(limit) {
    this.limit = limit;
  }

  /** Keep frames until their turn comes; return those that cannot wait, because there are more than `limit`. */
  keep(frames) {
    this.#frames.push(...frames);
    return this.#frames.splice(0, Math.max(0, this.#frames.length - this.limit));
  }

  takeFrames() {
    const frames = this.#frames;
    this.#frames = [];
    return frames;
  }
}
