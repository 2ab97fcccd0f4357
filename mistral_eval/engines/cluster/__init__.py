"""Workers: an engine in several processes, on one machine or, by Ray, on many."""
