// What pages do besides being read: parts that change arrive as server-sent events, keys move between rows, times count up.
// Everything is there without this file, but for the live part.
"use strict";
(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // --- times -----------------------------------------------------------------------------------------------------------
  const ago = (seconds) => {
    if (seconds < 0) return "just now";
    for (const [limit, size, unit] of [[90, 1, "s"], [5400, 60, "min"], [172800, 3600, "h"]])
      if (seconds < limit) return `${Math.floor(seconds / size)} ${unit} ago`;
    return `${Math.floor(seconds / 86400)} d ago`;
  };
  const count = () => {
    for (const time of all("time[data-ago]")) {
      const text = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  };
  count();
  setInterval(count, 1000);

  // --- live parts ------------------------------------------------------------------------------------------------------
  const state = $("#live-state");
  const say = (is, text) => {
    if (state && state.textContent !== text) { state.dataset.is = is; state.textContent = text; }
  };
  const shown = new Map();
  const replace = (region, html) => {
    const place = document.getElementById(region);
    if (!place || !place.hasAttribute("data-region")) return;
    const isFirst = !shown.has(region);
    if (shown.get(region) === html) return;
    shown.set(region, html);
    // The page came with the same part, as a rule: then nothing moves, and nobody loses his place.
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    for (const time of all("time[data-ago]", fresh.content)) time.textContent = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (plain(place) === plain(fresh.content)) return;
    const held = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const isOpen = all("details", place).map((one) => one.open);
    const known = new Set(all("a[data-row]", place).map((row) => row.getAttribute("href")));
    place.replaceChildren(fresh.content);
    all("details", place).forEach((one, at) => { one.open = Boolean(isOpen[at]); });
    if (held) all("a", place).find((one) => one.getAttribute("href") === held)?.focus({ preventScroll: true });
    const added = all("a[data-row]", place).filter((row) => !known.has(row.getAttribute("href")));
    for (const row of added) (row.closest("tr, li") ?? row).classList.add("fresh");
    if (added.length && !isFirst) $("#announce").textContent = `${added.length} new in ${region.replaceAll("_", " ")}`;
    if (region === "verdicts") $("#announce").textContent = $("h1", place)?.textContent ?? "";
  };
  const plain = (node) => {
    const copy = node.cloneNode(true);
    for (const time of copy.querySelectorAll("time[data-ago]")) time.textContent = "";
    const box = document.createElement("div");
    box.append(...copy.childNodes);
    for (const one of box.querySelectorAll(".fresh")) { one.classList.remove("fresh"); if (!one.className) one.removeAttribute("class"); }
    return box.innerHTML;
  };

  let stream = null;
  let again = 0;
  const connect = () => {
    clearTimeout(again);
    stream?.close();
    stream = new EventSource(document.body.dataset.live);
    stream.addEventListener("hello", () => say("on", "live"));
    stream.addEventListener("region", (event) => { const { region, html } = JSON.parse(event.data); replace(region, html); });
    stream.addEventListener("trouble", (event) => {
      const { text } = JSON.parse(event.data);
      text ? say("trouble", text) : say("on", "live");
    });
    stream.addEventListener("signed-out", () => { stream.close(); location.reload(); });
    stream.addEventListener("over", () => { stream.close(); say("off", "not live any more"); });
    stream.addEventListener("full", () => { stream.close(); say("off", "not live: too many pages are"); again = setTimeout(connect, 30000); });
    stream.onerror = () => {
      say("trouble", "not live: connecting again");
      // Closed means refused (too many pages, signed out): the browser does not try again by itself.
      if (stream.readyState === EventSource.CLOSED) again = setTimeout(connect, 10000);
    };
  };
  if (document.body.dataset.live && "EventSource" in window) {
    connect();
    // A page that nobody sees asks for nothing.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) { stream.close(); clearTimeout(again); say("off", "paused"); } else connect();
    });
    addEventListener("pagehide", () => stream.close());
  }

  // --- keys ------------------------------------------------------------------------------------------------------------
  const help = $("#help");
  const switchOn = $("#keys-on");
  const KEY = "isomon-keys-off";
  const remembered = () => { try { return localStorage.getItem(KEY) !== "1"; } catch { return true; } };
  if (switchOn) {
    switchOn.checked = remembered();
    switchOn.addEventListener("change", () => { try { switchOn.checked ? localStorage.removeItem(KEY) : localStorage.setItem(KEY, "1"); } catch { /* only for this page then */ } });
    for (const button of all("[data-help]")) { button.hidden = false; button.addEventListener("click", () => help.showModal()); }
  }
  const move = (by) => {
    const rows = all("[data-row]").filter((row) => row.offsetParent !== null);
    if (!rows.length) return;
    const at = rows.indexOf(document.activeElement);
    rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1)].focus();
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help?.open) return;
    const isField = event.target.closest("input, select, textarea");
    if (event.key === "Escape" && isField) { isField.blur(); return; }
    if (isField || (switchOn && !switchOn.checked)) return;
    const pages = all("nav a");
    if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "?" && help) help.showModal();
    else if (event.key === "/" && $("[data-filter]")) $("[data-filter]").focus();
    else if (/^[1-9]$/.test(event.key) && pages[event.key - 1]) pages[event.key - 1].click();
    else return;
    event.preventDefault();
  });
})();
