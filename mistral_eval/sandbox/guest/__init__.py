"""The code that runs inside the sandbox. Only the standard library is available there."""
