/**
 * A WebSocket that comes back, shows every event once and in order, and tells the server what arrived.
 *
 * Where isolation-monitor watches the server, events are numbered, acknowledged and sent again after a cut; elsewhere this
 * is a WebSocket that reconnects. Nothing here throws once the object is made. No dependencies, no build step.
 */

import { Connection, Past } from "./connection.js";
import { absolute, askingToMeasure, settingsFrom } from "./settings.js";

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;

/** Close code of a connection that is given up because a frame is missing on it. */
const CLOSE_FOR_GAP = 4000;
const CLOSE_LOST = 1006;
const HANDLERS = ["open", "message", "reconnecting", "gap", "lost", "error", "close"];
const REMEMBERED_RUNS = 256;

export class IsolationSocket extends EventTarget {
  static CONNECTING = CONNECTING;
  static OPEN = OPEN;
  static CLOSING = CLOSING;
  static CLOSED = CLOSED;
  CONNECTING = CONNECTING;
  OPEN = OPEN;
  CLOSING = CLOSING;
  CLOSED = CLOSED;

  #settings;
  #address;
  #past;
  #connection = null;
  #binaryType = "";
  #readyState = CONNECTING;
  #retries = 0;
  #retryTimer;
  #connections = 0;
  #openedAt = 0;
  #healedAt = -Infinity;
  #shown = new Set(); // ids, oldest first
  #runs = new Map(); // run id -> number of its last event, least recently used first
  #counts = { shown: 0, repeated: 0, gaps: 0, lost: 0, unknownLosses: 0, reconnects: 0 };
  #handlers = {};
  #isNew = true;
  #isWaiting = false;
  #forgetPage = () => {};

  /**
   * @param {string | URL | (() => string | URL | Promise<string | URL>)} url a function is asked before each connection, so
   *   that a token in the address is always a fresh one
   * @param {object} [options] see `isolation-socket.d.ts`
   * @throws {TypeError} there is no WebSocket class here, or an option is of no use
   * @throws {SyntaxError} the address is none
   */
  constructor(url, options = {}) {
    super();
    this.#settings = settingsFrom(options);
    this.#past = new Past(this.#settings.hold);
    if (typeof url === "function") this.#address = url;
    else {
      const address = absolute(url);
      this.#address = () => address;
    }
    this.#connect();
    this.#isNew = false;
    this.#watchPage();
  }

  /** As a WebSocket's; `CONNECTING` between two connections, too. */
  get readyState() {
    return this.#readyState;
  }

  /** True while the server acknowledges that it measures: it is watched by isolation-monitor and speaks to this client. */
  get isMeasured() {
    return this.#connection?.isMeasured ?? false;
  }

  /** Totals of this object; `isolation-socket.d.ts` says what each is. */
  get counts() {
    return { ...this.#counts };
  }

  get url() {
    return this.#connection?.socket.url ?? "";
  }

  get protocol() {
    return this.#connection?.socket.protocol ?? "";
  }

  get extensions() {
    return this.#connection?.socket.extensions ?? "";
  }

  get bufferedAmount() {
    return this.#connection?.socket.bufferedAmount ?? 0;
  }

  get binaryType() {
    return this.#binaryType || this.#connection?.socket.binaryType || "blob";
  }

  set binaryType(type) {
    this.#binaryType = type;
    if (this.#connection) this.#connection.socket.binaryType = type;
  }

  /** Send a message of the application. Returns false, and sends nothing, while there is no connection. */
  send(data) {
    if (this.#readyState !== OPEN) return false;
    try {
      this.#connection.socket.send(data);
      return true;
    } catch {
      return false;
    }
  }

  /** Close for good: no reconnect follows. */
  close(code, reason) {
    if (this.#readyState >= CLOSING) return;
    this.#readyState = CLOSING;
    this.#settings.clock.clearTimeout(this.#retryTimer);
    if (!this.#connection) {
      this.#retryTimer = this.#settings.clock.setTimeout(() => this.#closed(CLOSE_LOST, "", false), 0);
      return;
    }
    this.#connection.acknowledge();
    closeQuietly(this.#connection.socket, code, reason);
  }

  // --- connecting -------------------------------------------------------------------------------------------------------

  #connect() {
    this.#isWaiting = false;
    let address;
    try {
      address = this.#address();
    } catch {
      return this.#retryLater(CLOSE_LOST, "no address");
    }
    // A plain address connects at once, so that a page sees the same order of things as with a WebSocket.
    if (typeof address?.then !== "function") return this.#connectTo(address);
    address.then(
      (known) => this.#readyState === CONNECTING && this.#connectTo(known),
      () => this.#readyState === CONNECTING && this.#retryLater(CLOSE_LOST, "no address"),
    );
  }

  #connectTo(address) {
    let socket;
    try {
      socket = new this.#settings.WebSocket(askingToMeasure(absolute(address)), this.#settings.protocols);
      if (this.#binaryType) socket.binaryType = this.#binaryType;
    } catch (error) {
      // While the object is made, the page hears of it as from a WebSocket; later there is nobody to hear it.
      if (this.#isNew) throw error;
      return this.#retryLater(CLOSE_LOST, String(error?.message ?? error));
    }
    const connection = new Connection(socket, this.#past, this.#inside, this.#settings);
    this.#connection = connection;
    socket.onopen = () => this.#opened(connection);
    socket.onmessage = (event) => connection === this.#connection && connection.receive(event.data);
    socket.onerror = () => connection === this.#connection && this.#tell("error");
    socket.onclose = (event) => this.#ended(connection, event.code, event.reason, event.wasClean);
  }

  /** What a connection may do here. */
  #inside = {
    show: (frame) => this.#show(frame),
    gap: (detail) => {
      this.#counts.gaps += detail.last - detail.first + 1;
      this.#tell("gap", detail);
    },
    lost: (detail) => {
      if (detail.count === null) this.#counts.unknownLosses += 1;
      else this.#counts.lost += detail.count;
      this.#tell("lost", detail);
    },
    reconnect: (reason) => this.#reconnectForGap(reason),
  };

  #opened(connection) {
    if (connection !== this.#connection || this.#readyState !== CONNECTING) return;
    this.#readyState = OPEN;
    this.#openedAt = this.#settings.clock.now();
    const isReconnect = this.#connections > 0;
    this.#connections += 1;
    if (isReconnect) this.#counts.reconnects += 1;
    this.#tell("open", { isReconnect });
  }

  #ended(connection, code, reason, wasClean) {
    if (connection !== this.#connection) return;
    connection.end();
    this.#connection = null;
    // Only a connection that lasted ends the waiting: a server that accepts and closes must not be stormed.
    if (this.#readyState === OPEN && this.#settings.clock.now() - this.#openedAt >= this.#settings.stableMs) this.#retries = 0;
    if (this.#readyState === CLOSING || this.#isFinal(code)) this.#closed(code, reason, wasClean);
    else this.#retryLater(code, reason);
  }

  #isFinal(code) {
    const { finalCodes } = this.#settings;
    return typeof finalCodes === "function" ? Boolean(quietly(() => finalCodes(code))) : finalCodes.includes(code);
  }

  #retryLater(code, reason) {
    const { firstRetryMs, longestRetryMs, random, clock } = this.#settings;
    this.#readyState = CONNECTING;
    const step = Math.min(longestRetryMs, firstRetryMs * 2 ** Math.min(this.#retries, 30));
    this.#retries += 1;
    // Every browser waits a little differently, so that a restarted service is not stormed.
    const delayMs = Math.round(step * (0.5 + random() / 2));
    this.#isWaiting = true;
    this.#retryTimer = clock.setTimeout(() => this.#connect(), delayMs);
    this.#tell("reconnecting", { code, reason, delayMs, attempt: this.#retries });
  }

  #reconnectForGap(reason) {
    const { clock, stableMs } = this.#settings;
    const connection = this.#connection;
    if (this.#readyState !== OPEN || clock.now() - this.#healedAt < stableMs) return false;
    this.#healedAt = clock.now();
    closeQuietly(connection.socket, CLOSE_FOR_GAP, reason);
    this.#ended(connection, CLOSE_FOR_GAP, reason, false);
    return true;
  }

  #closed(code, reason, wasClean) {
    this.#readyState = CLOSED;
    this.#forgetPage();
    // What was still waiting for its turn is the user's all the same.
    for (const frame of this.#past.takeFrames()) this.#show(frame);
    this.#tell("close", { code, reason, wasClean });
  }

  // --- telling the page -------------------------------------------------------------------------------------------------

  #show({ data, envelope }) {
    if (envelope && typeof envelope.id === "string") {
      if (this.#shown.has(envelope.id)) {
        this.#counts.repeated += 1;
        return;
      }
      this.#shown.add(envelope.id);
      if (this.#shown.size > this.#settings.remember) this.#shown.delete(this.#shown.values().next().value);
      if (Number.isSafeInteger(envelope.run)) this.#checkRun(data, envelope.run);
    }
    this.#counts.shown += 1;
    this.dispatchEvent(messageEvent(data, this.url, envelope));
  }

  /** A number missing in a run alone was lost inside the application: it never reached the connection. */
  #checkRun(data, number) {
    const run = this.#settings.runId.exec(data)?.[1];
    if (run === undefined) return;
    const last = this.#runs.get(run);
    this.#runs.delete(run);
    if (!this.#settings.endEvent.test(data)) this.#runs.set(run, Math.max(number, last ?? 0));
    if (this.#runs.size > REMEMBERED_RUNS) this.#runs.delete(this.#runs.keys().next().value);
    if (last !== undefined && number > last + 1) this.#inside.gap({ source: "run", run, first: last + 1, last: number - 1 });
  }

  #tell(type, fields = {}) {
    this.dispatchEvent(Object.assign(new Event(type), fields));
  }

  #watchPage() {
    if (typeof globalThis.addEventListener !== "function") return;
    const acknowledge = () => this.#connection?.acknowledge();
    const retryNow = () => {
      if (!this.#isWaiting || this.#readyState !== CONNECTING) return;
      this.#settings.clock.clearTimeout(this.#retryTimer);
      this.#connect();
    };
    globalThis.addEventListener("pagehide", acknowledge);
    globalThis.addEventListener("online", retryNow);
    this.#forgetPage = () => {
      globalThis.removeEventListener("pagehide", acknowledge);
      globalThis.removeEventListener("online", retryNow);
    };
  }

  static {
    for (const type of HANDLERS) {
      Object.defineProperty(this.prototype, `on${type}`, {
        configurable: true,
        enumerable: true,
        get() {
          return this.#handlers[type]?.handler ?? null;
        },
        set(handler) {
          this.#setHandler(type, handler);
        },
      });
    }
  }

  #setHandler(type, handler) {
    if (this.#handlers[type]) this.removeEventListener(type, this.#handlers[type].listener);
    delete this.#handlers[type];
    if (typeof handler !== "function") return;
    const listener = (event) => handler.call(this, event);
    this.#handlers[type] = { handler, listener };
    this.addEventListener(type, listener);
  }
}

function messageEvent(data, url, envelope) {
  const init = { data, origin: quietly(() => new URL(url).origin) ?? "" };
  const event = globalThis.MessageEvent ? new MessageEvent("message", init) : Object.assign(new Event("message"), init);
  return Object.assign(event, { isolation: envelope });
}

function closeQuietly(socket, code, reason) {
  try {
    if (code === undefined) socket.close();
    else socket.close(code, reason);
  } catch {
    // A code or reason that a WebSocket does not take: the page wants it closed all the same.
    quietly(() => socket.close());
  }
}

function quietly(act) {
  try {
    return act();
  } catch {
    return undefined;
  }
}
