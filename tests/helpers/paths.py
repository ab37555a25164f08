"""Where the tests are run: the project's folder."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
HELPERS = TESTS / "helpers"
BENCHMARKS = ROOT / "benchmarks"
