// Sends one violation by OpenTelemetry's log exporter of npm: `node send.mjs URL TOKEN ATTRIBUTES`.
import { SeverityNumber } from "@opentelemetry/api-logs";
import { OTLPLogExporter } from "@opentelemetry/exporter-logs-otlp-http";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchLogRecordProcessor, LoggerProvider } from "@opentelemetry/sdk-logs";

const [, , url, token, attributes] = process.argv;
const exporter = new OTLPLogExporter({ url, headers: { Authorization: `Bearer ${token}` }, compression: "gzip", timeoutMillis: 60_000 });
const provider = new LoggerProvider({
  resource: resourceFromAttributes({ "service.name": "gateway-js" }),
  processors: [new BatchLogRecordProcessor(exporter)],
});
provider
  .getLogger("gateway")
  .emit({ severityNumber: SeverityNumber.ERROR, body: "foreign frame", attributes: JSON.parse(attributes) });
await provider.forceFlush();
await provider.shutdown();
