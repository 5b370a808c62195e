"""Linear attention in chunks in PyTorch, one timed call at a time, so that another program can alternate with it.

    python linear_step.py

The protocol is in ../README.md: a rule with the paths of its raw inputs, then `step [N]`, `output PATH`, `quit`.
"""
import statistics

import numpy as np
import torch

from step import serve, timed

# Tokens of a chunk: the fastest is kept.
CHUNKS = (32, 64, 128, 256)


def chunked(q, k, v, log_decay, beta, size):
    """S̃ = diag(a)·S, S ← S̃ + k⊗u, o = Sᵀq / √dim, by chunks of `size` tokens that divide them; u = v or β·(v − S̃ᵀk).

    Everything within chunks is one batched product for all of them. Chunk n reads the state after chunk n − 1.
    """
    scale = q.shape[-1] ** -0.5
    q, k, v = (x.unflatten(2, (-1, size)) for x in (q * scale, k, v))
    fall = torch.zeros(()) if log_decay is None else log_decay.unflatten(2, (-1, size)).cumsum(3)
    last = fall[..., -1:, :] if log_decay is not None else fall
    lower = torch.ones(size, size, dtype=torch.bool).tril()

    def pairs(a, b):
        """The dot products of a chunk's rows, each with what is forgotten in between."""
        if log_decay is None:
            return (a @ b.mT).tril()
        if fall.shape[-1] == 1:
            return (a @ b.mT) * (fall - fall.mT).masked_fill(~lower, -torch.inf).exp()
        return ((a * fall.exp()) @ (b * (-fall).exp()).mT).tril()

    scores, reads, writes = pairs(q, k), q * fall.exp(), (k * (last - fall).exp()).mT
    keeps = last.exp().mT if log_decay is not None else torch.ones(1, 1, q.shape[2], 1, 1)
    state = q.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
    if beta is None:
        sums, states = writes @ v, []
        for chunk in range(q.shape[2]):
            states.append(state)
            state = state * keeps[:, :, chunk] + sums[:, :, chunk]
        return (scores @ v + reads @ torch.stack(states, 2)).flatten(2, 3)
    beta = beta.unflatten(2, (-1, size))
    right = beta * torch.cat((v, k * fall.exp()), -1)
    solved = torch.linalg.solve_triangular((beta * pairs(k, k)).tril(-1), right, upper=False, unitriangular=True)
    lacks, removes = solved.split((v.shape[-1], k.shape[-1]), -1)
    out = []
    for chunk in range(q.shape[2]):
        u = lacks[:, :, chunk] - removes[:, :, chunk] @ state
        out.append(scores[:, :, chunk] @ u + reads[:, :, chunk] @ state)
        state = state * keeps[:, :, chunk] + writes[:, :, chunk] @ u
    return torch.stack(out, 2).flatten(2, 3)


class Rule:
    """The inputs of a call, and the call on them."""

    def __init__(self, request):
        shapes = request["shapes"]
        read = lambda name: torch.from_numpy(np.fromfile(request["inputs"][name], "<f4")).view(shapes[name])
        self.inputs = {name: read(name) for name in ("q", "k", "v", "log_decay", "beta") if name in shapes}
        self.grad = read("grad") if "grad" in shapes else None
        for tensor in self.inputs.values():
            tensor.requires_grad_(self.grad is not None)
        tokens = self.inputs["q"].shape[2]
        times = {}
        for size in CHUNKS:
            if tokens % size == 0:
                self.size = size
                self()
                times[size] = statistics.median(timed(self, 3)["each"])
        if not times:
            raise ValueError(f"{tokens} tokens are no whole chunks of {CHUNKS}")
        self.size = min(times, key=times.get)

    def run(self):
        optional = self.inputs.get
        return chunked(*(self.inputs[name] for name in "qkv"), optional("log_decay"), optional("beta"), self.size)

    def __call__(self):
        """One forward, or one forward and backward."""
        if self.grad is None:
            with torch.no_grad():
                return self.run()
        self.run().backward(self.grad)
        for tensor in self.inputs.values():
            tensor.grad = None

    def results(self):
        """The output, or with it the gradients, in the order of the inputs."""
        if self.grad is None:
            return [self()]
        out = self.run()
        return [out.detach(), *torch.autograd.grad(out, list(self.inputs.values()), self.grad)]


def prepare(request):
    torch.set_num_threads(request.get("threads", 2))
    rule = Rule(request)
    return rule, {"peer": f"torch {torch.__version__}", "chunk": rule.size}


def step(rule, count="1"):
    return timed(rule, int(count))


def output(rule, path):
    results = rule.results()
    with open(path, "wb") as file:
        for tensor in results:
            tensor.contiguous().numpy().astype("<f4").tofile(file)
    return {"written": [list(tensor.shape) for tensor in results]}


if __name__ == "__main__":
    serve(prepare, {"step": step, "output": output})
