"""What the step peers share: one request a line on stdin, one JSON line an answer on stdout, rest between the two.

Nothing else reaches stdout: the libraries' own chatter is sent to stderr, file descriptor and all.
"""
import json
import os
import statistics
import sys
import time

# A pool's threads spin on after a parallel region, for some 10 ms here, and would spin into the other side's measurement.
REST_S = 0.03

_answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(fields):
    """Writes one JSON line."""
    print(json.dumps(fields), file=_answers, flush=True)


# Cores and threads that rested meanwhile are slow at first: so long they work before they are timed.
WAKING_MS = 25

# A call as long as this is hardly longer for it, and counts at once.
LONG_MS = 100


def timed(call, count):
    """Runs `call` `count` times on cores that are awake; {"ms": the median, "each": all of them}, after a rest."""
    each, begin = [], time.perf_counter()
    while len(each) < count:
        start = time.perf_counter()
        call()
        ms = (time.perf_counter() - start) * 1e3
        if (start - begin) * 1e3 >= WAKING_MS or ms >= LONG_MS:
            each.append(ms)
    time.sleep(REST_S)
    return {"ms": statistics.median(each), "each": each}


def serve(prepare, commands):
    """Answers requests until `quit` or the end of stdin.

    A line that is a JSON object goes to `prepare(request)`, which returns the new state and the answer. Any other line
    is a command with at most one argument, and goes to `commands[name](state, *argument)`, which returns the answer.
    Whatever goes wrong is answered as {"error": ...}; after a failed preparation nothing is prepared.
    """
    state = None
    for line in sys.stdin:
        line = line.strip()
        if not line:
            continue
        try:
            if line.startswith("{"):
                # Let go of the old state first: the two may not fit side by side.
                state = None
                state, fields = prepare(json.loads(line))
            else:
                name, *argument = line.split(maxsplit=1)
                if name == "quit":
                    return
                if name not in commands:
                    raise ValueError(f"no command {name!r}: {', '.join(commands)} or quit")
                if state is None:
                    raise ValueError(f"{name}: nothing is prepared")
                fields = commands[name](state, *argument)
            answer(fields)
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})
