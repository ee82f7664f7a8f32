/**
 * A user of the chat service in Node, with the installed package and a real WebSocket: asks what it is told to on standard
 * input, and prints what it hears, one JSON object a line.
 */

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

import { IsolationSocket } from "isolation-monitor-client";

const WebSocket = globalThis.WebSocket ?? createRequire(import.meta.url)("ws").WebSocket;
const print = (what) => console.log(JSON.stringify(what));

const socket = new IsolationSocket(process.argv[2], { WebSocket, firstRetryMs: 50, longestRetryMs: 200 });
socket.onopen = ({ isReconnect }) => print({ heard: "open", isReconnect });
socket.onmessage = ({ data, isolation }) => print({ heard: "message", frame: JSON.parse(data), isolation });
socket.ongap = ({ source, first, last }) => print({ heard: "gap", source, first, last });
socket.onlost = ({ count, replayed }) => print({ heard: "lost", count, replayed });
socket.onclose = ({ code }) => print({ heard: "close", code });

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => print({ heard: "sent", ok: socket.send(line), counts: socket.counts, isMeasured: socket.isMeasured }));
lines.on("close", () => socket.close());
