"""The benchmarks. `systems` defines what can be judged; `sparse`, `dense`, `florence`, `scans`, `identity`, `likeness`
and `robustness` are one protocol each, with baselines and intervals; `summary` puts them into words, `ablation`
compares variants, `cost` counts operations."""
