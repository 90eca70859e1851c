"""Speed and memory, always as ratios within one run: ``python -m benchmarks [--quick] --json FILE``."""
