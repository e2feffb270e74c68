"""docs/security.md promises a test for each claim: here that each of them is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows_of(page):
    """Yield the rows of the page's tables, their heads and rules aside."""
    for line in page.splitlines():
        if line.startswith("|") and not line.startswith(("|---", "| Claim", "| Limit")):
            yield line


def test_each_claim_names_a_test_that_exists():
    """A claim whose test was renamed or removed is one that nobody proves."""
    rows = list(rows_of((ROOT / "docs" / "security.md").read_text(encoding="utf-8")))
    missing = []
    for row in rows:
        named = NAMED.findall(row)
        if not named:
            missing.append(f"names no test: {row}")
        for file, test in named:
            path = ROOT / file
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            if test not in {getattr(node, "name", "") for node in ast.parse(text).body}:
                missing.append(f"{file} has no {test}")

    assert len(rows) > 30
    assert not missing, "\n".join(missing)
