#!/usr/bin/env bash
# ray 2.60.0: "A generator is a function that behaves like an iterator, yielding one value at a time",
# and Ray turns one into a stream of objects
# (https://docs.ray.io/en/latest/ray-core/ray-generator.html). Observed: Ray does not iterate over
# the generator but sends objects into it, so a `yield` evaluates to Ray's own StreamingGeneratorStats
# instead of None. A `yield from` an iterator that is no generator, such as `map` or `iter`, therefore
# fails at its second item, with an AttributeError about `send` that names neither Ray nor the reason;
# under plain Python the same generator works. A `for` loop that yields each item works in both.
# Reported: not yet.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ray==2.60.0"
cat >"$folder/observe.py" <<'PY'
import ray

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")


def received():
    got = yield 1
    yield type(got).__name__


def delegating():
    yield from map(int, "12")


def looping():
    for item in map(int, "12"):
        yield item


def streamed(generator):
    task = ray.remote(generator).options(num_returns="streaming", max_retries=0)
    try:
        return [ray.get(item) for item in task.remote()]
    except ray.exceptions.RayTaskError as error:
        return str(error.cause)


for generator in (received, delegating, looping):
    print(generator.__name__, list(generator()), streamed(generator))
PY
observed=$(RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" "$folder/observe.py" 2>/dev/null)
echo "ray 2.60.0:"
echo "$observed"
expected="received [1, 'NoneType'] [1, 'StreamingGeneratorStats']
delegating [1, 2] 'map' object has no attribute 'send'
looping [1, 2] [1, 2]"
[ "$observed" = "$expected" ] || {
    echo "The behaviour has changed; see the head of $0." >&2
    exit 1
}
