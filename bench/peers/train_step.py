"""A Llama-like language model and its training step in PyTorch, as `regard train` has them: the peer of `regard bench --layers`.

Reads one JSON object a line: {"vocabulary", "width", "layers", "heads", "hidden", "batch", "tokens"} makes the model and answers
its parameters; {"steps": n} takes n steps on random tokens and answers their seconds.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x, cos, sin):
        batch, tokens, width = x.shape
        q, k, v = (layer(x).view(batch, tokens, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))

        def turn(x):
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat((-b, a), -1) * sin

        y = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(width, heads)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.norm1(x), cos, sin)
        n = self.norm2(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


class Model(nn.Module):
    def __init__(self, vocabulary, width, layers, heads, hidden):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        self.turns = {}
        self.dim = width // heads

    def forward(self, tokens, targets):
        n = tokens.shape[1]
        if n not in self.turns:
            angles = torch.outer(torch.arange(n), 10000.0 ** (-torch.arange(0, self.dim, 2) / self.dim)).repeat(1, 2)
            self.turns[n] = (angles.cos(), angles.sin())
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, *self.turns[n])
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    torch.manual_seed(0)
    torch.set_num_threads(int(sys.argv[1]))
    model = None
    for line in sys.stdin:
        call = json.loads(line)
        if "width" in call:
            names = ("vocabulary", "width", "layers", "heads", "hidden")
            model = Model(*(call[name] for name in names))
            optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
            shape = (call["batch"], call["tokens"] + 1)
            tokens = torch.randint(call["vocabulary"], shape)
            answer = {"parameters": sum(p.numel() for p in model.parameters()), "torch": torch.__version__}
        else:
            begin = time.perf_counter()
            for _ in range(call["steps"]):
                loss = model(tokens[:, :-1], tokens[:, 1:])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
            answer = {"seconds": time.perf_counter() - begin, "loss": loss.item()}
        print(json.dumps(answer), flush=True)


main()
