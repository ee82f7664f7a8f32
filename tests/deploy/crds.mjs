// Holds documents (JSON, one a line, on standard input) against the schemas of their kinds' own CRDs; prints what is wrong with each.
import { createInterface } from "node:readline";
import * as argo from "@kubernetes-models/argo-rollouts/argoproj.io/v1alpha1";
import * as monitoring from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import * as alpha from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1alpha1";

const homes = { "argoproj.io/v1alpha1": argo, "monitoring.coreos.com/v1": monitoring, "monitoring.coreos.com/v1alpha1": alpha };
for await (const line of createInterface({ input: process.stdin })) {
  const document = JSON.parse(line);
  const kind = homes[document.apiVersion]?.[document.kind];
  let error = kind ? null : `no schema of ${document.apiVersion} ${document.kind}`;
  try {
    if (kind) new kind(document).validate();
  } catch (found) {
    error = String(found.message ?? found);
  }
  console.log(JSON.stringify({ kind: document.kind, error }));
}
