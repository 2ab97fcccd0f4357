"""What happened, on disk: the record of replies, run folders, samples files, comparisons."""
