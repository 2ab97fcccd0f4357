"""The benchmarks: what each asks, which answer is right, how it is judged; and the suites."""
