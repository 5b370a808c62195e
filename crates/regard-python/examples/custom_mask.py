"""A mask of one's own: what it keeps, what it costs, and that it is right.

Documents of 512 tokens, in which each token sees the 64 before it, every 16th token, and the first four.

    python custom_mask.py [--quick]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import regard
import torch
from regard import Mask


def seconds(call, runs=5):
    """The least of some runs."""
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1024 tokens and no 4096")
    parser.add_argument("--picture", type=Path, default=Path("custom_mask.png"), help="where the mask is drawn to")
    arguments = parser.parse_args()
    n = 1024 if arguments.quick else 4096

    mask = Mask.causal() & Mask.block_diagonal(512) & (Mask.window(63, None) | Mask.strided(16) | Mask.prefix(4))
    print(mask)
    arguments.picture.write_bytes(mask.png(n, n))
    print(f"drawn to {arguments.picture.resolve()}")

    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 8, n, 64), dtype=np.float32)
    print(regard.plan(q, k, v, mask))

    # The same with PyTorch, to which the mask is an array.
    tensors = [torch.from_numpy(x) for x in (q, k, v)]
    dense = torch.from_numpy(mask.to_numpy(n, n))
    torch.set_num_threads(regard.num_threads())
    theirs = lambda: torch.nn.functional.scaled_dot_product_attention(*tensors, dense)  # noqa: E731
    difference = np.abs(regard.attention(q, k, v, mask) - theirs().numpy()).max()
    print(f"largest difference from PyTorch: {difference:.1e}")
    assert difference < 1e-5
    ours = seconds(lambda: regard.attention(q, k, v, mask))
    print(f"{n} tokens, 8 heads of 64: {1e3 * ours:.2f} ms; PyTorch {1e3 * seconds(theirs):.2f} ms")


if __name__ == "__main__":
    main()
