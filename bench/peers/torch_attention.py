"""Times PyTorch's CPU attention on the cases of ../cases.json and prints one JSON line a case.

    python torch_attention.py [--threads 2] [--only ID ...] [--flex | --zentorch]

Needs `pip install torch` (and a C++ compiler for --flex; `torch==2.14.0 zentorch==2.14.0.1` for --zentorch, forward only). Times are medians in milliseconds.
A `window` case keeps |i - j| <= window, or j < globals; a `causal-window` case keeps
i - window < j <= i, or j < globals and j <= i. PyTorch has no window, so it is given a boolean mask.
A decode case (one query) rotates over enough copies of its inputs (128 MiB at least) that they come from memory.
"""
import argparse, itertools, json, math, pathlib, statistics, time

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def median_ms(step, runs=21, budget_s=8.0):
    step(); step()
    times, start = [], time.perf_counter()
    while len(times) < 3 or (len(times) < runs and time.perf_counter() - start < budget_s):
        t = time.perf_counter(); step(); times.append(time.perf_counter() - t)
    return statistics.median(times) * 1e3


def keep(case, i, j):
    """The boolean rule of a case's mask, for index tensors i (query) and j (key)."""
    if case["mask"] == "window":
        return ((i - j).abs() <= case["window"]) | (j < case["globals"])
    if case["mask"] == "causal-window":
        return (j <= i) & ((i - j < case["window"]) | (j < case["globals"]))
    return j <= i


def run(case, flex):
    B, H, G, N, M, D = (case[k] for k in ("batch", "heads", "kv_heads", "queries", "keys", "dim"))
    back = case.get("backward", False)
    new = lambda h, n: torch.randn(B, h, n, D).to(DTYPES[case["dtype"]]).requires_grad_(back)
    q, k, v = new(H, N), new(G, M), new(G, M)
    copies = math.ceil((128 << 20) / (2 * k.nbytes)) if N == 1 else 1
    kv = itertools.cycle([(k, v)] + [(k.clone(), v.clone()) for _ in range(copies - 1)])
    kw = {"enable_gqa": True} if H != G else {}
    if flex:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        block = create_block_mask(lambda b, h, i, j: keep(case, i, j), 1, 1, N, M, device="cpu")
        compiled = torch.compile(flex_attention)
        attend = lambda: compiled(q, k, v, block_mask=block, **kw)
    else:
        if "window" in case["mask"]:
            kw["attn_mask"] = keep(case, torch.arange(N)[:, None], torch.arange(M)[None])
        if copies > 1:
            attend = lambda: F.scaled_dot_product_attention(q, *next(kv), **kw)
        else:
            attend = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=case["mask"] == "causal", **kw)
    if back:
        grad = torch.randn(B, H, N, D).to(DTYPES[case["dtype"]])
        def step():
            attend().backward(grad)
            q.grad = k.grad = v.grad = None
        return median_ms(step)
    with torch.no_grad():
        return median_ms(attend)


if __name__ == "__main__":
    args = argparse.ArgumentParser()
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--only", nargs="*")
    args.add_argument("--flex", action="store_true", help="torch.compile'd flex_attention instead (masked forward cases only)")
    args.add_argument("--zentorch", action="store_true", help="AMD's zentorch_sdpa instead (cases without groups or backward)")
    args = args.parse_args()
    if args.zentorch:
        import zentorch  # noqa: F401
        F.scaled_dot_product_attention = lambda *a, **kw: torch.ops.zentorch.zentorch_sdpa(*a, **kw)[0]
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    for case in json.loads((pathlib.Path(__file__).resolve().parents[1] / "cases.json").read_text()):
        if args.only and case["id"] not in args.only or "versus" in case:
            continue
        if args.flex and (case["mask"] == "none" or case.get("backward")):
            continue
        if args.zentorch and (case.get("backward") or case["heads"] != case["kv_heads"]):
            continue
        name = "torch-flex" if args.flex else "zentorch with torch" if args.zentorch else "torch"
        print(json.dumps({"peer": f"{name} {torch.__version__}", "id": case["id"], "ms": round(run(case, args.flex), 3)}), flush=True)
