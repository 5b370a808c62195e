"""Calls beside other threads, in forked processes, and interrupted ones."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import reference
import regard


def test_threads_call_at_once(rng):
    q, k, v = rng.standard_normal((3, 8, 2, 300, 64), dtype=np.float32)
    expected = [reference.attention(*(x[b : b + 1] for x in (q, k, v)), kept=reference.causal(300, 300))[0] for b in range(8)]
    errors = []

    def work(b):
        for _ in range(30):
            out = regard.attention(*(x[b : b + 1] for x in (q, k, v)), "causal")
            errors.append(abs(out - expected[b]).max())

    threads = [threading.Thread(target=work, args=(b,)) for b in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 240 and max(errors) < 1e-5


def test_other_threads_run_while_it_computes(rng):
    q, k, v = rng.standard_normal((3, 1, 8, 4096, 64), dtype=np.float32)
    turns, done = [], threading.Event()

    def spin():
        while not done.is_set():
            turns.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=spin)
    thread.start()
    time.sleep(0.05)
    start = time.perf_counter()
    regard.attention(q, k, v)
    end = time.perf_counter()
    done.set()
    thread.join()
    assert sum(start < turn < end for turn in turns) >= 3


def test_one_cache_in_two_threads(rng):
    cache = regard.Cache(1, 16, capacity=4000, dtype="float32")
    k = rng.standard_normal((1, 1, 16), dtype=np.float32)

    def work():
        for _ in range(500):
            cache.append(k, k)
            regard.decode(k, cache)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) == 2000
    assert np.allclose(regard.decode(k, cache), k, atol=1e-5)


def in_child(q, k, v, queue):
    queue.put(regard.attention(q, k, v, "causal"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
def test_a_process_that_forks(rng):
    q, k, v = rng.standard_normal((3, 1, 4, 400, 64), dtype=np.float32)
    expected = regard.attention(q, k, v, "causal")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=in_child, args=(q, k, v, queue)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in children:
        assert (queue.get(timeout=60) == expected).all()
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    assert (regard.attention(q, k, v, "causal") == expected).all()


#: Calls of a second or more, and what they are given.
CALLS = {
    "forward": ("20000", "regard.attention(q, k, v)"),
    "float64": ("4000, np.float64", "regard.attention(q, k, v)"),
    "backward": ("8000", "regard.attention_backward(q, k, v, q, q[..., 0].copy(), q)"),
    "scores": ("20000", "regard.scores(q, k, heads=[0, 2], rows=range(3000))"),
    "linear": ("60000, np.float64", "regard.linear_attention(*(x.reshape(1, 40, -1, 64) for x in (q, k, v)))"),
    "mask": ("1", "regard.Mask.random(0.5, 1).to_numpy(6000, 6000)"),
    "index": ("3000", "regard.Index(q[0, 0])"),
    "indexes": ("2500", "regard.retrieve(q[:, :2], k[:, :2], v[:, :2], 16)"),
    "layout": ("1", "regard.Mask.random(0.3, 1).layout(10000, 10000)"),
    "list": ("1", "regard.Mask.global_keys(range(20_000_000))"),
    "search": ("3000", "regard.retrieve(q[:, :, :500], k, v, 30, sight='grown')"),
}


@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_ends_a_long_call(call):
    tokens, run = CALLS[call]
    script = f"""
import numpy as np, regard, signal, time
def draw(tokens, dtype=np.float32):
    return np.random.default_rng(0).standard_normal((3, 1, 4, tokens, 64), dtype=dtype)
q, k, v = draw({tokens})
def seconds():
    start = time.perf_counter()
    try:
        {run}
    except KeyboardInterrupt:
        return time.perf_counter() - start, True
    return time.perf_counter() - start, False
whole, _ = seconds()
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, whole / 8)
print(whole, *seconds())
small = q[:, :, :50]
assert np.isfinite(regard.attention(small, small, small)).all()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    whole, ended, heard = done.stdout.split()
    # What is begun of a task is finished.
    assert heard == "True" and float(ended) < 0.7 * float(whole), done.stdout


def test_a_signal_that_ends_nothing():
    script = """
import numpy as np, regard, signal
heard = []
signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
q, k, v = np.random.default_rng(0).standard_normal((3, 1, 4, 8000, 64), dtype=np.float32)
quiet = regard.attention(q, k, v)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
loud = regard.attention(q, k, v)
signal.setitimer(signal.ITIMER_REAL, 0)
assert heard and (loud == quiet).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_handler_that_asks_for_what_is_in_use():
    """A signal's handler runs in the midst of a call that has locked its cache: it is told so, and does not wait for itself."""
    script = """
import numpy as np, regard, signal
heard = []
def handler(*_):
    try:
        heard.append(len(cache))
    except RuntimeError as error:
        heard.append(str(error))
signal.signal(signal.SIGALRM, handler)
cache = regard.Cache(2, 64, capacity=200_000, dtype="float32")
cache.append(*np.random.default_rng(0).standard_normal((2, 2, 200_000, 64), dtype=np.float32))
q = np.ones((1, 32, 64, 64), dtype=np.float32)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
out = [regard.decode(q, cache, "full") for _ in range(3)]
signal.setitimer(signal.ITIMER_REAL, 0)
assert any("handler" in str(what) for what in heard), heard
assert (out[0] == out[1]).all() and len(cache) == 200_000
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_who_waits_for_another_thread_hears_ctrl_c():
    script = """
import numpy as np, regard, signal, threading, time
cache = regard.Cache(2, 64, capacity=200_000, dtype="float32")
cache.append(*np.random.default_rng(0).standard_normal((2, 2, 200_000, 64), dtype=np.float32))
q = np.ones((1, 64, 64, 64), dtype=np.float32)
done = []
def work():
    for _ in range(3):
        regard.decode(q, cache, "full")
    done.append(time.perf_counter())
thread = threading.Thread(target=work)
thread.start()
time.sleep(0.1)
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    while thread.is_alive():
        len(cache)
except KeyboardInterrupt:
    heard = time.perf_counter()
thread.join()
assert heard < done[0]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
