"""torch.nn.MultiheadAttention, or a training step of a Llama-like model, one timed call at a time, so that another program can
alternate with it.

    python layers_step.py

The protocol is in ../README.md: a layer or a model with the paths of its raw inputs, then `step [N]`, `output PATH`, `quit`.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from step import serve, timed


def read(path):
    return torch.from_numpy(np.fromfile(path, "<f4"))


class MultiHead:
    """Self-attention of `x [1, tokens, width]`; with `grad` its gradients too."""

    def __init__(self, request):
        at, width, heads = request["inputs"], request["width"], request["heads"]
        self.layer = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
        with torch.no_grad():
            self.layer.in_proj_weight.copy_(read(at["w_qkv"]).view(3 * width, width))
            self.layer.out_proj.weight.copy_(read(at["w_out"]).view(width, width).T)
        self.x = read(at["x"]).view(1, -1, width)
        self.grad = read(at["grad"]).view_as(self.x) if "grad" in at else None
        self.layer.train(self.grad is not None)
        self.x.requires_grad_(self.grad is not None)

    def __call__(self):
        if self.grad is None:
            with torch.no_grad():
                return self.layer(self.x, self.x, self.x, need_weights=False)[0]
        out = self.layer(self.x, self.x, self.x, need_weights=False)[0]
        out.backward(self.grad)
        return out

    def output(self):
        for tensor in (self.x, *self.layer.parameters()):
            tensor.grad = None
        out = [self()]
        if self.grad is not None:
            out += [self.x.grad, self.layer.in_proj_weight.grad, self.layer.out_proj.weight.grad.T]
        return out


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x, cos, sin):
        batch, tokens, width = x.shape
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (layer(x).view(batch, tokens, self.heads, -1).transpose(1, 2) for layer in projections)

        def turn(x):
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat((-b, a), -1) * sin

        y = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, tokens, width))


class FeedForward(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, eps=1e-5)
        self.self_attn = Attention(width, heads)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=1e-5)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """As `regard train` makes one, by the names of its tensors: the logits are made with the embedding's weights."""

    def __init__(self, vocabulary, width, layers, heads, hidden):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.dim, self.turns = width // heads, {}

    def forward(self, tokens, targets):
        count = tokens.shape[1]
        if count not in self.turns:
            frequencies = 10000.0 ** (-torch.arange(0, self.dim, 2) / self.dim)
            angles = torch.outer(torch.arange(count), frequencies).repeat(1, 2)
            self.turns[count] = (angles.cos(), angles.sin())
        x = self.embed_tokens(tokens)
        for block in self.layers:
            x = block(x, *self.turns[count])
        logits = F.linear(self.norm(x), self.embed_tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Training:
    """Steps of AdamW with clipped gradients on rows `tokens [batch, tokens + 1]`; its output is the loss of a short check. With `bf16`
    the model runs under autocast."""

    def __init__(self, request):
        self.bf16 = request.get("bf16", False)
        self.model = Model(*(request[name] for name in ("vocabulary", "width", "layers", "heads", "hidden")))
        names = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, path in request["weights"].items():
                parameter = names.pop(name.removeprefix("model."))
                parameter.copy_(read(path).view_as(parameter))
        if names:
            raise ValueError(f"no weights for {', '.join(names)}")
        # The fastest form of PyTorch's own.
        groups = [
            {"params": [p for p in self.model.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in self.model.parameters() if p.dim() == 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
        rows = lambda name: read(request["inputs"][name]).long().view(-1, request[name] + 1)
        self.tokens, self.check = rows("tokens"), rows("check")

    def loss(self, rows):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.model(rows[:, :-1], rows[:, 1:])

    def output(self):
        with torch.no_grad():
            return [self.loss(self.check)]

    def __call__(self):
        loss = self.loss(self.tokens)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()


def prepare(request):
    torch.set_num_threads(request["threads"])
    case = MultiHead(request) if "w_qkv" in request["inputs"] else Training(request)
    return case, {"peer": f"torch {torch.__version__}"}


def output(case, path):
    np.concatenate([tensor.detach().float().numpy().ravel() for tensor in case.output()]).tofile(path)
    return {}


serve(prepare, {"step": lambda case, count="1": timed(case, int(count)), "output": output})
