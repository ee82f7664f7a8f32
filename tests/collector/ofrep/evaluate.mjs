// Asks a collector by the OFREP provider of npm: `node evaluate.mjs URL TOKEN`, then one JSON question a line; one JSON answer a line.
import { createInterface } from "node:readline";
import { OpenFeature } from "@openfeature/server-sdk";
import { OFREPProvider } from "@openfeature/ofrep-provider";

const [, , baseUrl, token] = process.argv;
const provider = new OFREPProvider({ baseUrl, headers: [["Authorization", `Bearer ${token}`]] });
await OpenFeature.setProviderAndWait(provider);
const client = OpenFeature.getClient();

for await (const line of createInterface({ input: process.stdin })) {
  const { key, fallback, context } = JSON.parse(line);
  const ask = typeof fallback === "boolean" ? client.getBooleanDetails : client.getStringDetails;
  const { value, variant, reason, errorCode } = await ask.call(client, key, fallback, context);
  process.stdout.write(JSON.stringify({ value, variant: variant ?? null, reason, error: errorCode ?? null }) + "\n");
}
await OpenFeature.close();
