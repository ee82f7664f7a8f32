from isolation_monitor.alerts import build
from isolation_monitor.alerts.model import Links
from tests.alerts.rule_cases import GROWTH_CASES
_L = Links(build.DEFAULT_BASE_URL, build.DEFAULT_GRAFANA_URL)
LINKS = {a.name: {k: v for k, v in a.as_rule(_L)["annotations"].items() if k.endswith("_url")} for a in build.alerts()}
SCENARIOS = [case.scenario() for case in GROWTH_CASES]
