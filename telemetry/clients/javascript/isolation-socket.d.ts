/** What the monitor wrote into a frame. */
export interface Envelope {
  /** The serving process. */
  epoch: string;
  /** Number of the frame on its connection, from 1. */
  conn: number;
  /** Number of the event in its run, from 1; absent outside of runs. */
  run?: number;
  /** The event's own id; the same when it is sent again. */
  id: string;
  /** Keyed hash of the principal whose connection it is; null while nobody knows the user. */
  owner: string | null;
  /** How the application's frame was wrapped, where it is no JSON object; `data` is the frame itself. */
  as?: "text" | "base64";
}

export interface IsolationOpenEvent extends Event {
  /** True for every connection after the first. */
  readonly isReconnect: boolean;
}

export interface IsolationMessageEvent extends MessageEvent {
  /** The envelope, which `data` no longer carries; null for a frame without one. */
  readonly isolation: Envelope | null;
}

/** The connection is lost; the next attempt follows by itself. */
export interface ReconnectingEvent extends Event {
  readonly code: number;
  readonly reason: string;
  /** Milliseconds until the next attempt. */
  readonly delayMs: number;
  /** 1 for the first attempt since a connection lasted. */
  readonly attempt: number;
}

/** Numbers `first` to `last` did not arrive. */
export interface GapEvent extends Event {
  /** `connection`: lost on the way, and asked for again. `run`: the application never sent it. */
  readonly source: "connection" | "run";
  /** The run's id; null for a gap of the connection. */
  readonly run: string | null;
  readonly first: number;
  readonly last: number;
}

/** Events that will not come: the server said so, or it no longer knows the stream. */
export interface LostEvent extends Event {
  /** How many; null when nobody knows. */
  readonly count: number | null;
  /** How many were sent again. */
  readonly replayed: number;
}

/** The end: no reconnect follows. */
export interface IsolationCloseEvent extends Event {
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;
}

export interface IsolationSocketEventMap {
  open: IsolationOpenEvent;
  message: IsolationMessageEvent;
  reconnecting: ReconnectingEvent;
  gap: GapEvent;
  lost: LostEvent;
  error: Event;
  close: IsolationCloseEvent;
}

export interface Counts {
  /** Messages given to the page. */
  shown: number;
  /** Events that came again and were not shown again. */
  repeated: number;
  /** Numbers that were missing, on connections and in runs. */
  gaps: number;
  /** Events that the server gave up. */
  lost: number;
  /** How often nobody knew how many events were lost. */
  unknownLosses: number;
  reconnects: number;
}

/** A WebSocket class: the platform's, or the one of the package `ws`. */
export interface WebSocketClass {
  new (url: string, protocols?: string | string[]): object;
}

/** Times are milliseconds. */
export interface IsolationSocketOptions {
  protocols?: string | string[];
  /** For Node before 22, which has none of its own. Default: the global one. */
  WebSocket?: WebSocketClass;
  /** Close codes after which there is no reconnect, or a function that tells. Default: 1000, 1008, 4401, 4403. */
  finalCodes?: number[] | ((code: number) => boolean);
  /** Pause before the first attempt; doubled with each further one, and shortened by up to a half by chance. Default: 500. */
  firstRetryMs?: number;
  /** Default: 15000. */
  longestRetryMs?: number;
  /** A connection that lasted so long starts the pauses over again. Default: 10000. */
  stableMs?: number;
  /** Pause between acknowledgements. Default: null, what the server asks for. */
  ackMs?: number | null;
  /** How long a missing frame is waited for before it is asked for again. Default: 1000. */
  gapMs?: number;
  /** How long the server may take to answer for an earlier connection. Default: 5000. */
  resumeMs?: number;
  /** Ids of shown events that are remembered. Default: 10000. */
  remember?: number;
  /** Frames that may wait for an earlier one. Default: 1000. */
  hold?: number;
  /** The application's field with the run's id. Default: run_id. */
  runField?: string;
  /** The application's field with the event's name. Default: type. */
  eventField?: string;
  /** Names of the events that end a run; acknowledged at once. Default: agent_completed, agent_error, agent_cancelled. */
  endEvents?: string[];
  /** For tests: a number from 0 to 1. */
  random?: () => number;
  /** For tests. */
  clock?: {
    now(): number;
    setTimeout(act: () => void, ms: number): unknown;
    clearTimeout(timer: unknown): void;
  };
}

type Address = string | URL;

/**
 * A WebSocket that comes back, shows every event once and in order, and tells the server what arrived.
 *
 * Made as a WebSocket is; throws only while it is made, for an address or options that cannot be used.
 */
export class IsolationSocket extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;

  /** @param url a function is asked before each connection, so that a token in the address is always a fresh one */
  constructor(url: Address | (() => Address | Promise<Address>), options?: IsolationSocketOptions);

  /** As a WebSocket's; CONNECTING between two connections, too. */
  readonly readyState: 0 | 1 | 2 | 3;
  /** True while the server measures delivery on this connection. */
  readonly isMeasured: boolean;
  /** Totals of this object. */
  readonly counts: Counts;
  readonly url: string;
  readonly protocol: string;
  readonly extensions: string;
  readonly bufferedAmount: number;
  binaryType: BinaryType;

  onopen: ((this: IsolationSocket, event: IsolationOpenEvent) => void) | null;
  onmessage: ((this: IsolationSocket, event: IsolationMessageEvent) => void) | null;
  onreconnecting: ((this: IsolationSocket, event: ReconnectingEvent) => void) | null;
  ongap: ((this: IsolationSocket, event: GapEvent) => void) | null;
  onlost: ((this: IsolationSocket, event: LostEvent) => void) | null;
  onerror: ((this: IsolationSocket, event: Event) => void) | null;
  onclose: ((this: IsolationSocket, event: IsolationCloseEvent) => void) | null;

  /** Send a message. Returns false, and sends nothing, while there is no connection. */
  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): boolean;
  /** Close for good. */
  close(code?: number, reason?: string): void;

  addEventListener<K extends keyof IsolationSocketEventMap>(
    type: K,
    listener: (this: IsolationSocket, event: IsolationSocketEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof IsolationSocketEventMap>(
    type: K,
    listener: (this: IsolationSocket, event: IsolationSocketEventMap[K]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | EventListenerOptions): void;
}
