"""What an engine has computed so far, and what it would have cost without sharing."""

from dataclasses import dataclass


@dataclass(slots=True)
class Stats:
    """Counters of one engine, added up over its calls.

    Attributes:
        score_computed: tokens that scoring ran through the model.
        score_unique: tokens of the prefix trees of the score requests.
        score_naive: tokens of the distinct sequences `(context + continuation)[:-1]`: what
            lm-eval's `hf` model feeds, which merges requests that differ in the last token only.
        prompt_computed: prompt tokens that generation ran through the model.
        prompt_unique: tokens of the prefix trees of the prompts.
        prompt_naive: tokens of all prompts, one prompt a request, as `hf` feeds them.
        generated: tokens drawn, EOS included.
        score_flop: useful arithmetic of scoring (see `flops`), of what was computed.
        generate_flop: useful arithmetic of generation, prompts and replies that ended.
        score_seconds: wall time spent scoring.
        generate_seconds: wall time spent generating.
        halvings: how often the device's memory ran out and the token budget was halved; what had
            been computed for requests without a reply was then computed again, and counts twice as
            computed, once as unique.
        peak_bytes: the process's largest resident memory so far.
        peak_device_bytes: the largest memory held by tensors on a CUDA device so far; else 0.
    """

    score_computed: int = 0
    score_unique: int = 0
    score_naive: int = 0
    prompt_computed: int = 0
    prompt_unique: int = 0
    prompt_naive: int = 0
    generated: int = 0
    score_flop: int = 0
    generate_flop: int = 0
    score_seconds: float = 0.0
    generate_seconds: float = 0.0
    halvings: int = 0
    peak_bytes: int = 0
    peak_device_bytes: int = 0
