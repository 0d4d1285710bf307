#!/usr/bin/env python3
"""Reads the dashboard beside this file by Grafana's schema (PyPI: grafana-foundation-sdk) and writes it again: what is not
the same then, Grafana does not know, or knows otherwise. Exit 1: there is such a thing."""

import json
import pathlib
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def differences(ours, theirs, path):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from differences(value, theirs[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is not in the schema"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (one, other) in enumerate(zip(ours, theirs)):
            yield from differences(one, other, f"{path}[{place}]")
    elif ours != theirs:
        yield f"{path} is {ours!r}, and read as {theirs!r}"


register_default_plugins()
ours = json.loads(pathlib.Path(__file__).with_name("postbound.json").read_text())
theirs = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))
found = list(differences(ours, theirs, "dashboard"))
print("\n".join(found))
sys.exit(1 if found else 0)
