"""Each vendor's SDK is imported in its adapter only; `schemas` imports pydantic alone."""

import ast
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.source import ROOT, imported_modules, parse, product_files, show

IMPORTERS: dict[str, set[str]] = {
    "stripe": {"billing/stripe_gateway.py"},
    "clickhouse_connect": {
        "infra/clickhouse/client.py",
        "streams/rollup_sql.py",  # passes hashes to a query as an external table
    },
    "chdb": {"infra/clickhouse/local.py"},
    "kafka": {"infra/kafka/*.py", "inference/publisher.py"},
    "aiokafka": {
        "streams/archive_log.py",  # records with their keys, times and headers, by plain consumers
        "streams/batch_transport.py",  # Faust's driver, and the private names that we lean on
        "streams/group.py",  # the fenced commit
        "streams/log_totals.py",  # the log's own count, by a reader that is not ours
    },
    "faust": {
        *("streams/app.py", "streams/live_app.py"),
        *("streams/batch_transport.py", "streams/group.py"),
        "streams/broker_access.py",  # how a Faust app is let in by the broker
    },
    "mode": {"streams/app.py"},
    "vllm": {"inference/vllm*.py"},
    # In the engine's environment only, where the demo's model is converted.
    "transformers": {"inference/convert_gguf.py"},
    "torch": {"inference/convert_gguf.py"},
    "opentelemetry": {"inference/door_spans.py"},
    "openai": {"rentroll/demo_traffic.py"},
    "obstore": {"infra/objects/cloud.py"},
    "typst": {"billing/statement_pdf.py"},
    "jinja2": {"billing/statement_html.py"},
    "yaml": {"billing/yaml_source.py", "inference/simulate/lined_yaml.py"},
    "cryptography": {"infra/signing.py"},
    "alembic": {"infra/store/*.py"},
    "aiohttp": {"inference/door_admission.py"},
    "standardwebhooks": {"streams/alert_webhooks.py"},
    "uvicorn": {"rentroll/admission_command.py", "rentroll/stripe_commands.py"},
}
"""Who may import what. An SDK changes under us: then one file changes, and its tests tell."""
SCHEMAS_MAY_IMPORT = {"pydantic", "schemas"} | sys.stdlib_module_names


def vendor_faults(path: Path, tree: ast.AST) -> list[str]:
    faults = []
    for module, line in imported_modules(tree):
        vendor = module.split(".")[0]
        allowed = IMPORTERS.get(vendor, {"*"})
        if not any(fnmatch(show(path), pattern) for pattern in allowed):
            faults.append(
                f"{show(path)}:{line} imports {module}: only {sorted(allowed)} may;"
                " call those, or add your adapter to IMPORTERS in tests/repo/test_vendors.py"
            )
    return faults


def schemas_faults(path: Path, tree: ast.AST) -> list[str]:
    return [
        f"{show(path)}:{line} imports {module}: `schemas` stands on pydantic and Python alone"
        for module, line in imported_modules(tree)
        if module.split(".")[0] not in SCHEMAS_MAY_IMPORT
    ]


@pytest.mark.parametrize("path", product_files(), ids=show)
def test_vendor_sdk_is_imported_in_its_adapter_only(path: Path) -> None:
    assert vendor_faults(path, parse(path)) == []


@pytest.mark.parametrize(
    "path", [path for path in product_files() if show(path).startswith("schemas/")], ids=show
)
def test_schemas_imports_pydantic_and_the_standard_library_only(path: Path) -> None:
    assert schemas_faults(path, parse(path)) == []


@pytest.mark.parametrize("vendor", sorted(IMPORTERS))
def test_planted_import_of_a_vendor_is_found(vendor: str) -> None:
    rating = ROOT / "billing/rating.py"
    assert vendor_faults(rating, ast.parse(f"def later():\n    from {vendor}.client import Client"))
    allowed = ROOT / sorted(IMPORTERS[vendor])[0]
    assert not vendor_faults(allowed, ast.parse(f"import {vendor}"))


def test_planted_import_below_schemas_is_found() -> None:
    assert schemas_faults(ROOT / "schemas/usage.py", ast.parse("import msgspec"))
    assert schemas_faults(ROOT / "schemas/usage.py", ast.parse("from infra.settings import X"))
