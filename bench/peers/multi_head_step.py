"""torch.nn.MultiheadAttention, forward and with backward: the peer of `regard bench --layers`.

Reads one JSON object a line, {"tokens": n, "repeats": r}, and answers the seconds of the fastest of r calls of each.
"""

import json
import sys
import time

import torch


def least(repeats, call):
    best = float("inf")
    for _ in range(repeats + 3):
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


def main():
    torch.manual_seed(0)
    torch.set_num_threads(int(sys.argv[1]))
    layer = torch.nn.MultiheadAttention(256, 8, bias=False, batch_first=True)
    for line in sys.stdin:
        call = json.loads(line)
        x = torch.randn(1, call["tokens"], 256, requires_grad=True)
        d = torch.randn(1, call["tokens"], 256)

        def forward():
            with torch.no_grad():
                layer.eval()
                layer(x, x, x, need_weights=False)

        def both():
            layer.train()
            layer(x, x, x, need_weights=False)[0].backward(d)

        answer = {"forward": least(call["repeats"], forward), "both": least(call["repeats"], both), "torch": torch.__version__}
        print(json.dumps(answer), flush=True)


main()
