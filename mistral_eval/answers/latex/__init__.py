"""LaTeX answers as sympy values."""
