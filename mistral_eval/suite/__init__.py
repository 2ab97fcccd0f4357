"""The benchmarks, their gold answers and judges, and the suites."""
