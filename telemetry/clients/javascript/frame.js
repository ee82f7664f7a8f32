/**
 * What the monitor wrote into a text frame, and the application's own text without it.
 *
 * An envelope is the first member of a JSON object: `{"isolation": {"epoch", "owner", "conn", "id", "run"}, …the application's}`.
 * With `as` in it, the application wrapped a frame that is no JSON object, and the frame itself is in the member `data`.
 * A frame whose only member is `isolation`, without a `conn` in it, is the monitor's own. Nothing else is touched.
 */

// The envelope's values are numbers and plain words, so the first brace that closes is its own: the rest is never parsed.
const ENVELOPE = /^(\s*\{)\s*"isolation"\s*:\s*(\{[^{}]*\})(?:,|(?=\s*\}))/;
const OWN_FRAME = /^\s*\{\s*"isolation"\s*:/;
const LONGEST_OWN_FRAME = 4096;

/**
 * Take one frame apart.
 *
 * @param {unknown} data what the WebSocket delivered: a text, or anything binary
 * @param {string | null} epoch the serving process's, from the welcome: an envelope of another one is the application's business
 * @param {string} binaryType what binary frames shall be: blob, or arraybuffer
 * @returns {{data: unknown, envelope: object | null, own: object | null}} `own` is the content of a frame of the monitor itself
 */
export function readFrame(data, epoch, binaryType) {
  if (typeof data !== "string" || !OWN_FRAME.test(data)) return { data, envelope: null, own: null };
  const match = ENVELOPE.exec(data);
  const envelope = match && objectIn(match[2]);
  if (envelope && envelope.epoch === epoch && Number.isSafeInteger(envelope.conn) && envelope.conn > 0) {
    const sent = match[1] + data.slice(match[0].length);
    return { data: envelope.as === undefined ? sent : (unwrapped(sent, envelope.as, binaryType) ?? sent), envelope, own: null };
  }
  const whole = data.length <= LONGEST_OWN_FRAME ? objectIn(data) : null;
  const own = whole && Object.keys(whole).length === 1 ? whole.isolation : null;
  return { data, envelope: null, own: own && typeof own === "object" && !("conn" in own) ? own : null };
}

function unwrapped(sent, form, binaryType) {
  const frame = objectIn(sent)?.data;
  if (typeof frame !== "string") return undefined;
  if (form === "text") return frame;
  if (form !== "base64") return undefined;
  try {
    const bytes = Uint8Array.from(atob(frame), (character) => character.charCodeAt(0));
    return binaryType === "blob" ? new Blob([bytes]) : bytes.buffer;
  } catch {
    return undefined;
  }
}

function objectIn(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
