/**
 * The numbered frames of one connection: which came, which did not, and in what order they may be shown.
 *
 * Numbers count from 1 without a gap. A frame that comes after a missing one is held until the missing one is here or is
 * given up. Plain bookkeeping: no clock and no socket.
 */

// Far more than one connection ever loses apart from each other; beyond, neighbours are joined and count as missing.
const MOST_RANGES = 64;

export class Received {
  /** Frames given up, frames that came twice, and frames that came after a later one. Totals of this connection. */
  gaps = 0;
  duplicates = 0;
  disorder = 0;
  #highest = 0;
  #missing = []; // [first, last], ascending
  #givenUpTo = 0;
  #held = []; // [number, item]

  /** Everything up to this number arrived. */
  get contiguous() {
    return this.#missing.length ? this.#missing[0][0] - 1 : this.#highest;
  }

  /** True while an earlier frame is missing that may still come. */
  get isWaiting() {
    return this.#missing.length > 0 && this.#missing.at(-1)[1] > this.#givenUpTo;
  }

  get heldCount() {
    return this.#held.length;
  }

  /**
   * Note one frame.
   *
   * @param {number} number the frame's; 0 for one without a number, which keeps its place behind what came before it
   * @param {unknown} item anything, handed back when its turn has come
   * @returns {unknown[]} the items whose turn has come, in order
   */
  take(number, item) {
    if (number > this.#highest) {
      if (number > this.#highest + 1) this.#miss(this.#highest + 1, number - 1);
      this.#highest = number;
    } else if (number > 0) {
      if (!this.#found(number)) {
        this.duplicates += 1;
        return [];
      }
      this.disorder += 1;
      // Its place is gone: what followed it was shown when it was given up.
      if (number <= this.#givenUpTo) return [item];
    }
    this.#held.push([number || this.#highest, item]);
    return this.isWaiting ? [] : this.release();
  }

  /**
   * Wait no longer for what is missing, and count it.
   *
   * @returns {[number, number][]} the ranges that are given up now
   */
  giveUp() {
    const fresh = this.#missing.filter(([, last]) => last > this.#givenUpTo);
    const ranges = fresh.map(([first, last]) => [Math.max(first, this.#givenUpTo + 1), last]);
    for (const [first, last] of ranges) this.gaps += last - first + 1;
    this.#givenUpTo = Math.max(this.#givenUpTo, ...ranges.map(([, last]) => last));
    return ranges;
  }

  /** Return what is held, in order, and hold it no more. */
  release() {
    const items = this.#held.sort(([a], [b]) => a - b).map(([, item]) => item);
    this.#held = [];
    return items;
  }

  #miss(first, last) {
    if (this.#missing.length < MOST_RANGES) this.#missing.push([first, last]);
    else this.#missing.at(-1)[1] = last;
  }

  #found(number) {
    const at = this.#missing.findIndex(([first, last]) => first <= number && number <= last);
    if (at < 0) return false;
    const [first, last] = this.#missing[at];
    const left = [[first, number - 1], [number + 1, last]].filter(([from, to]) => from <= to);
    this.#missing.splice(at, 1, ...left);
    return true;
  }
}
