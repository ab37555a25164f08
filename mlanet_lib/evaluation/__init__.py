"""The benchmarks: systems under test, protocols, baselines and intervals."""
