"""Final answers in LaTeX: find, parse and compare them."""
