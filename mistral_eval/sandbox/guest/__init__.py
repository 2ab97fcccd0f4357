"""What runs inside the sandbox: standard library only, since nothing else is there."""
