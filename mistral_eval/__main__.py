"""`python -m mistral_eval`: the same command line as `mistral-eval`."""

from mistral_eval.cli.app import main

if __name__ == "__main__":
    main()
