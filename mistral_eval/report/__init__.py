"""What the numbers mean: tables in every format."""
