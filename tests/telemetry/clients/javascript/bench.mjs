/** What the tests of the client stand on: a server's side that a test plays by hand, and a clock that it turns. */

import { IsolationSocket } from "../../../../telemetry/clients/javascript/isolation-socket.js";

/** A clock whose time passes only by `pass`. */
export class Clock {
  time = 0;
  #timers = [];

  now = () => this.time;

  setTimeout = (act, ms) => {
    const timer = { act, at: this.time + ms };
    this.#timers.push(timer);
    return timer;
  };

  clearTimeout = (timer) => {
    this.#timers = this.#timers.filter((other) => other !== timer);
  };

  get pending() {
    return this.#timers.length;
  }

  pass(ms) {
    const end = this.time + ms;
    for (;;) {
      const next = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.clearTimeout(next);
      this.time = Math.max(this.time, next.at);
      next.act();
    }
    this.time = end;
  }
}

/** One page with its socket, and the server's side of each of its connections. */
export class Bench {
  clock = new Clock();
  connections = [];
  told = [];

  constructor(options = {}, url = "ws://chat.test/ws?token=a.b") {
    const bench = this;
    const WebSocket = class extends ServerSide {
      constructor(address, protocols) {
        super(address, protocols);
        bench.connections.push(this);
      }
    };
    this.socket = new IsolationSocket(url, { WebSocket, clock: this.clock, random: () => 1, ...options });
    for (const type of ["open", "message", "reconnecting", "gap", "lost", "error", "close"]) {
      this.socket.addEventListener(type, (event) => this.told.push(event));
    }
  }

  /** The newest connection. */
  get server() {
    return this.connections.at(-1);
  }

  /** Texts of the messages that the page saw, in order. */
  get shown() {
    return this.told.filter(({ type }) => type === "message").map(({ data }) => data);
  }

  events(type) {
    return this.told.filter((event) => event.type === type);
  }

  /** Let the newest connection open and the monitor welcome it. */
  welcome(stream = `stream-${this.connections.length}`, epoch = "e1", ackMs = 200) {
    this.server.open();
    this.server.own({ welcome: { stream, epoch, ack_ms: ackMs } });
    this.server.epoch = epoch;
  }

  /** Cut the newest connection, and let the client come back. */
  cut(code = 1006) {
    this.server.fall(code);
    this.clock.pass(20_000);
  }
}

/** What the client believes to be the platform's WebSocket. A test plays the server with it. */
export class ServerSide {
  readyState = 0;
  binaryType = "blob";
  bufferedAmount = 0;
  protocol = "";
  extensions = "";
  epoch = "e1";
  /** What the client sent: objects. */
  sent = [];

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  send(data) {
    if (this.readyState === 0) throw new Error("InvalidStateError");
    if (this.readyState === 1) this.sent.push(typeof data === "string" && data.startsWith("{") ? JSON.parse(data) : data);
  }

  close(code, reason) {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) throw new Error("InvalidAccessError");
    this.closedWith = { code, reason };
    this.readyState = 2;
  }

  open() {
    this.readyState = 1;
    this.onopen?.({});
  }

  fall(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason, wasClean: code !== 1006 });
  }

  frame(data) {
    this.onmessage?.({ data });
  }

  own(content) {
    this.frame(JSON.stringify({ isolation: content }));
  }

  /** Send an event as the monitor does: spliced, the application's text untouched. */
  event(conn, text, { id = text.replace(/\W/g, "-"), run, epoch = this.epoch } = {}) {
    const envelope = JSON.stringify({ epoch, owner: "h", conn, id, run });
    const body = text.startsWith("{") ? text.slice(1) : `"text": "${text}"}`;
    this.frame(`{"isolation":${envelope}${body === "}" ? "" : ","}${body}`);
  }

  get acks() {
    return this.sent.filter((frame) => frame.isolation && "ack" in frame.isolation).map((frame) => frame.isolation);
  }

  get helloes() {
    return this.sent.filter((frame) => frame.isolation?.hello).map((frame) => frame.isolation.hello);
  }
}

/** The text of an event made by `ServerSide.event` from a bare word. */
export const body = (word) => `{"text": "${word}"}`;
