"""The benchmarks: what each asks, which answer is right and how replies are judged; the suites."""
