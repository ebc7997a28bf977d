"""PyTorch on the engine's work, as the other side of an interleaved measurement (`cargo xtask bench engine`).

Builds a Llama-shaped decoder from the sizes given, and trains it with fused AdamW in float32. It is driven over standard
input: each line is a number of steps; the answer is one line of JSON with the seconds of each step and the peak RSS.
It prints {"ready": ...} after warm-up. Needs torch only.

    python torch_speed.py --vocab 4096 --hidden 384 --layers 6 --heads 6 --ffn 1024 --context 256 --batch 8 --threads 2 [--compile]
"""

import argparse
import json
import os
import resource
import sys
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("vocab", "hidden", "layers", "heads", "ffn", "context", "batch", "threads"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def build(torch, sizes):
    nn, F = torch.nn, torch.nn.functional
    width = sizes.hidden // sizes.heads
    rates = 1.0 / (10000.0 ** (torch.arange(0, width, 2).float() / width))
    angles = torch.outer(torch.arange(sizes.context).float(), rates)
    cosine, sine = angles.cos(), angles.sin()

    def rotate(x):
        low, high = x.chunk(2, -1)
        return torch.cat([low * cosine - high * sine, low * sine + high * cosine], -1)

    def linear(inputs, outputs):
        return nn.Linear(inputs, outputs, bias=False)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            d = sizes.hidden
            self.before, self.between = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
            self.query, self.key, self.value, self.out = (linear(d, d) for _ in range(4))
            self.gate, self.up, self.down = linear(d, sizes.ffn), linear(d, sizes.ffn), linear(sizes.ffn, d)

        def forward(self, x):
            rows, length, d = x.shape
            split = lambda y: y.view(rows, length, sizes.heads, width).transpose(1, 2)
            h = self.before(x)
            q, k, v = rotate(split(self.query(h))), rotate(split(self.key(h))), split(self.value(h))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(rows, length, d))
            h = self.between(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(sizes.vocab, sizes.hidden)
            self.layers = nn.ModuleList(Layer() for _ in range(sizes.layers))
            self.norm, self.head = nn.RMSNorm(sizes.hidden, eps=1e-5), linear(sizes.hidden, sizes.vocab)

        def forward(self, tokens, targets):
            x = self.embedding(tokens)
            for layer in self.layers:
                x = layer(x)
            return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())

    return Decoder()


def main():
    sizes = arguments()
    os.environ["OMP_NUM_THREADS"] = str(sizes.threads)
    import torch

    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    model = build(torch, sizes)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, 0.0, 0.02)
    forward = torch.compile(model) if sizes.compile else model
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens, targets = (torch.randint(0, sizes.vocab, (sizes.batch, sizes.context)) for _ in range(2))

    def step():
        begun = time.perf_counter()
        forward(tokens, targets).backward()
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - begun

    for _ in range(3):
        step()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"ready": torch.__version__, "parameters": parameters}), flush=True)
    for line in sys.stdin:
        seconds = [step() for _ in range(int(line))]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
