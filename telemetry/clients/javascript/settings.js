/** What can be set, with its defaults, and the address that the server is asked at. Times are milliseconds. */

const DEFAULTS = {
  protocols: [],
  WebSocket: undefined,
  finalCodes: [1000, 1008, 4401, 4403],
  firstRetryMs: 500,
  longestRetryMs: 15_000,
  stableMs: 10_000,
  ackMs: null,
  gapMs: 1_000,
  resumeMs: 5_000,
  remember: 10_000,
  hold: 1_000,
  runField: "run_id",
  eventField: "type",
  endEvents: ["agent_completed", "agent_error", "agent_cancelled"],
  random: Math.random,
  clock: {
    now: () => Date.now(),
    setTimeout: (act, ms) => setTimeout(act, ms),
    clearTimeout: (timer) => clearTimeout(timer),
  },
};
const NUMBERS = ["firstRetryMs", "longestRetryMs", "stableMs", "gapMs", "resumeMs", "remember", "hold"];

/**
 * Return the options with every default filled in, and the patterns that find a frame's run and its last event.
 *
 * @throws {TypeError} an option is unknown or of no use, or there is no WebSocket class
 */
export function settingsFrom(options) {
  const unknown = Object.keys(options).filter((name) => !(name in DEFAULTS));
  if (unknown.length) throw new TypeError(`unknown option ${unknown.join(", ")}: use one of ${Object.keys(DEFAULTS).join(", ")}`);
  const settings = { ...DEFAULTS, ...options };
  settings.WebSocket ??= globalThis.WebSocket;
  if (typeof settings.WebSocket !== "function") {
    throw new TypeError("there is no WebSocket class here: give one, such as { WebSocket } of the package ws");
  }
  for (const name of NUMBERS) atLeastZero(name, settings[name]);
  if (settings.ackMs !== null) atLeastZero("ackMs", settings.ackMs);
  const ends = settings.endEvents.map(escaped).join("|");
  return {
    ...settings,
    runId: new RegExp(`"${escaped(settings.runField)}"\\s*:\\s*"([^"\\\\]*)"`),
    endEvent: new RegExp(`"${escaped(settings.eventField)}"\\s*:\\s*"(?:${ends || "(?!)"})"`),
  };
}

/**
 * Return an absolute address for a WebSocket, as the platform understands it: relative to the page, ws for http.
 *
 * @throws {SyntaxError} it is no address
 */
export function absolute(url) {
  let found;
  try {
    found = new URL(url, globalThis.location?.href);
  } catch {
    throw new SyntaxError(`${JSON.stringify(String(url))} is no address of a WebSocket: use one such as wss://chat.example/ws`);
  }
  found.protocol = found.protocol.replace("http", "ws");
  found.hash = "";
  return found.href;
}

/** Ask the server to measure. The rest of the query stays as it was written, character by character. */
export function askingToMeasure(address) {
  const url = new URL(address);
  if (url.searchParams.get("isolation") !== "1") url.search += `${url.search ? "&" : "?"}isolation=1`;
  return url.href;
}

function atLeastZero(name, value) {
  if (!(typeof value === "number" && value >= 0)) throw new TypeError(`${name}: ${String(value)} is of no use: give a number, 0 or more`);
}

function escaped(text) {
  return String(text).replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
