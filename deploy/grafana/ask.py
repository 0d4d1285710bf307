#!/usr/bin/env python3
"""Asks a Prometheus every query of the dashboard beside this file, and prints a table: series found, and the greatest value.

    deploy/grafana/ask.py http://127.0.0.1:9090

Needs our recording rules there (deploy/prometheus/rules). Exit 1: a query failed or found nothing.
"""

import json
import pathlib
import sys
import urllib.parse
import urllib.request


def main(prometheus):
    dashboard = json.loads(pathlib.Path(__file__).with_name("postbound.json").read_text())
    empty = 0
    print("| panel | query | series | greatest value |\n| --- | --- | --- | --- |")
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$target", ".*").replace("$__rate_interval", "1m")
            series = ask(prometheus, query)
            value = f"{max(float(one['value'][1]) for one in series):.3g}" if series else "nothing"
            empty += not series
            print(f"| {panel['title']} | `{query}` | {len(series)} | {value} |")
    return 1 if empty else 0


def ask(prometheus, query):
    url = f"{prometheus.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]["result"]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
