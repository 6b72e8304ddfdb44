"""The training steps that `mtv-bench gpu-check` measures, in PyTorch: eager and torch.compile. JSON on standard output.

The same layers, sizes, losses and optimizer as in src/commands/gpu_check/step.rs (recipe "paper", case 2): sample, E(x), G(E(x)), both centre
views, VGG16 features, SSIM, latents, Adam. Weights and inputs are random, so times and memory are compared, not losses.

    python benches/peer/gpu.py [--device cuda:0] [--precision f32|tf32] [--steps 20] [--narrow] [--no-compile]
"""
import argparse
import json
import math
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

SLOPE = 0.2
FIR = [1.0, 3.0, 3.0, 1.0]


def outer(taps, gain=1.0):
    k = torch.tensor(taps)
    return (k[:, None] * k[None] / k.sum() ** 2 * gain)[None, None]


def depthwise(x, kernel, **kw):
    c = x.shape[1]
    return F.conv2d(x, kernel.to(x).expand(c, 1, *kernel.shape[2:]), groups=c, **kw)


def blur(x):
    return depthwise(x, outer([1.0, 2.0, 1.0]), padding=1)


def param(*shape, std=None):
    return nn.Parameter(torch.randn(*shape) * (std or 1 / math.sqrt(max(1, math.prod(shape[1:])))))


def conv(o, i, k):
    return param(o, i, k, k, std=math.sqrt(2 / (i * k * k)))


def fused_up(w):
    w = F.pad(w, (1, 1, 1, 1))
    return w[:, :, 1:, 1:] + w[:, :, :-1, 1:] + w[:, :, 1:, :-1] + w[:, :, :-1, :-1]


class Mapping(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(8))

    def forward(self, z):
        w = z * torch.rsqrt((z * z).mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), SLOPE)
        return w


def adain(x, style):
    s, c = style[:, :, None, None], x.shape[1]
    return F.instance_norm(x, eps=1e-8) * (s[:, :c] + 1) + s[:, c:]


class StyleGan1(nn.Module):
    def __init__(self, size, dim, base, top):
        super().__init__()
        self.dim, self.sides = dim, [4 << i for i in range(int(math.log2(size)) - 1)]
        self.widths = [min(base // s, top) for s in self.sides]
        self.mapping, self.constant = Mapping(dim), param(1, self.widths[0], 4, 4, std=1.0)
        self.convs, self.layers, last = nn.ParameterList(), nn.ModuleList(), self.widths[0]
        for i, c in enumerate(self.widths):
            for k in range(2):
                if i or k:
                    self.convs.append(conv(c, last if k == 0 else c, 3))
                self.layers.append(nn.Linear(dim, 2 * c))
            last = c
        self.strengths = nn.ParameterList(param(1, c, 1, 1, std=0.1) for c in self.widths for _ in range(2))
        self.biases = nn.ParameterList(param(1, c, 1, 1, std=0.1) for c in self.widths for _ in range(2))
        self.rgb = nn.Conv2d(last, 3, 1)
        self.noise_sides = [s for s in self.sides for _ in range(2)]

    def latent(self, n, device):
        w = self.mapping(torch.randn(n, self.dim, device=device))
        return w[:, None].repeat(1, 2 * len(self.sides), 1)

    def forward(self, w, noise):
        x = self.constant.expand(len(w), -1, -1, -1)
        for i in range(len(self.layers)):
            if i:
                kernel = self.convs[i - 1]
                if i % 2:
                    x = F.conv2d(x, kernel, padding=1)
                elif self.sides[i // 2] >= 128:
                    x = blur(F.conv_transpose2d(x, fused_up(kernel).transpose(0, 1), stride=2, padding=1))
                else:
                    x = blur(F.conv2d(F.interpolate(x, scale_factor=2), kernel, padding=1))
            x = F.leaky_relu(x + self.strengths[i] * noise[i] + self.biases[i], SLOPE)
            x = adain(x, self.layers[i](w[:, i]))
        return self.rgb(x)


class StyleGan2(nn.Module):
    def __init__(self, size, dim, base, top):
        super().__init__()
        self.dim, self.sides = dim, [4 << i for i in range(int(math.log2(size)) - 1)]
        self.widths = [min(base // s, top) for s in self.sides]
        self.mapping, self.constant = Mapping(dim), param(1, self.widths[0], 4, 4, std=1.0)
        self.convs, self.styles, last = nn.ParameterList(), nn.ModuleList(), self.widths[0]
        self.outputs, self.output_styles = nn.ParameterList(), nn.ModuleList()
        for i, c in enumerate(self.widths):
            for k in range(0 if i else 1, 2):
                self.convs.append(conv(c, last if k == 0 else c, 3))
                self.styles.append(nn.Linear(dim, last if k == 0 else c))
            self.outputs.append(param(3, c))
            self.output_styles.append(nn.Linear(dim, c))
            last = c
        of_layers = [(s, c) for s, c in zip(self.sides, self.widths) for _ in range(2)][1:]
        self.noise_sides = [s for s, _ in of_layers]
        self.strengths = nn.ParameterList(param(1, std=0.1) for _ in of_layers)
        self.biases = nn.ParameterList(param(1, c, 1, 1, std=0.1) for _, c in of_layers)

    latent = StyleGan1.latent

    def forward(self, w, noise):
        x, image = self.constant.expand(len(w), -1, -1, -1), None
        for i in range(len(self.convs)):
            style, kernel = self.styles[i](w[:, i]) + 1, self.convs[i]
            x = x * style[:, :, None, None]
            demodulate = torch.rsqrt(style.square() @ kernel.square().sum((2, 3)).t() + 1e-8)
            if i % 2:
                x = depthwise(F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2), outer(FIR, 4.0), padding=1)
            else:
                x = F.conv2d(x, kernel, padding=1)
            x = x * demodulate[:, :, None, None] + self.strengths[i] * noise[i] + self.biases[i]
            x = F.leaky_relu(x, SLOPE) * math.sqrt(2)
            if i % 2 == 0:
                b = i // 2
                k = self.outputs[b][None] * (self.output_styles[b](w[:, 2 * b + 1]) + 1)[:, None]
                rgb = torch.einsum("noc,nchw->nohw", k, x)
                if image is not None:
                    n, _, h, _ = image.shape
                    up = F.pad(image[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1)).reshape(n, 3, 2 * h, 2 * h)
                    rgb = rgb + depthwise(F.pad(up, (2, 1, 2, 1)), outer(FIR, 4.0))
                image = rgb
        return image


class ConditionalNorm(nn.Module):
    """Standing statistics with a scale and an offset of the condition."""

    def __init__(self, channels, condition, trained):
        super().__init__()
        maps = [nn.Linear(condition, channels, bias=False) for _ in range(2)]
        self.maps = nn.ModuleList(nn.utils.spectral_norm(m) if trained else m for m in maps)

    def forward(self, x, c):
        scale, offset = (m(c)[:, :, None, None] for m in self.maps)
        return x * (1 + scale) + offset


class BigGanBlock(nn.Module):
    def __init__(self, up, i, o, condition):
        super().__init__()
        self.up, self.o, m = up, o, i // 4
        self.norms = nn.ModuleList(ConditionalNorm(c, condition, False) for c in (i, m, m, m))
        self.convs = nn.ModuleList([nn.Conv2d(i, m, 1), nn.Conv2d(m, m, 3, padding=1), nn.Conv2d(m, m, 3, padding=1), nn.Conv2d(m, o, 1)])

    def forward(self, x, c):
        y = x
        for k, (norm, layer) in enumerate(zip(self.norms, self.convs)):
            y = F.relu(norm(y, c))
            if self.up and k == 1:
                y = F.interpolate(y, scale_factor=2)
            y = layer(y)
        skip = x if x.shape[1] == self.o else x[:, : x.shape[1] // 2]
        return y + (F.interpolate(skip, scale_factor=2) if self.up else skip)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(c, n, 1, bias=False) for n in (c // 8, c // 8, c // 2))
        self.out, self.gamma = nn.Conv2d(c // 2, c, 1, bias=False), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        n, _, h, w = x.shape
        phi, g = F.max_pool2d(self.phi(x), 2).flatten(2), F.max_pool2d(self.g(x), 2).flatten(2)
        shares = F.softmax(self.theta(x).flatten(2).transpose(1, 2) @ phi, -1)
        return x + self.gamma * self.out((g @ shares.transpose(1, 2)).reshape(n, -1, h, w))


class BigGan(nn.Module):
    def __init__(self, size, dim, channels, classes):
        super().__init__()
        self.dim, self.classes, condition = dim, classes, 2 * dim
        self.embedding, self.first = nn.Embedding(classes, dim), nn.Linear(condition, 16 * channels[0])
        pairs = list(zip(channels, channels[1:]))
        self.blocks = nn.ModuleList(BigGanBlock(i % 2 == 1, a, b, condition) for i, (a, b) in enumerate(pairs))
        self.at = 2 * int(math.log2(min(size // 2, 64) // 4))
        self.attention, self.norm, last = Attention(channels[self.at]), nn.BatchNorm2d(channels[-1]), channels[-1]
        self.rgb, self.noise_sides, self.widths = nn.Conv2d(last, last, 3, padding=1), [], channels

    def latent(self, n, device):
        self.classes_of_batch = torch.randint(self.classes, (n,), device=device)
        return torch.cat([torch.randn(n, self.dim, device=device), self.embedding(self.classes_of_batch)], 1)

    def forward(self, c, noise):
        x = self.first(c).reshape(len(c), 4, 4, -1).permute(0, 3, 1, 2)
        for i, block in enumerate(self.blocks):
            x = block(self.attention(x) if i == self.at else x, c)
        return torch.tanh(self.rgb(F.relu(self.norm(x)))[:, :3])


def stats(x):
    return torch.cat([x.mean((2, 3)), x.var((2, 3), unbiased=False).sqrt()], 1)


class StyleEncoder(nn.Module):
    def __init__(self, size, dim, first, top):
        super().__init__()
        n = int(math.log2(size)) - 1
        w = [min(first << i, top) for i in range(n + 1)]
        self.fused = [size >> i >= 128 for i in range(n)]
        self.rgb, self.n = nn.Conv2d(3, w[0], 1), n
        self.conv1 = nn.ParameterList(conv(w[i], w[i], 3) for i in range(n))
        self.conv2 = nn.ParameterList(conv(w[i + 1], w[i], 3) for i in range(n - 1))
        self.rows1 = nn.ModuleList(nn.Linear(2 * w[i], dim) for i in range(n))
        self.rows2 = nn.ModuleList(nn.Linear(2 * w[i], dim) for i in range(n))
        self.skips = nn.ModuleList(nn.Conv2d(w[i], w[i + 1], 1) if w[i] != w[i + 1] else nn.Identity() for i in range(n - 1))
        at = [(i, w[i + k]) for i in range(n) for k in range(2)][:-1]
        self.strengths = nn.ParameterList(param(1, c, 1, 1, std=0.1) for _, c in at)
        self.biases = nn.ParameterList(param(1, c, 1, 1, std=0.1) for _, c in at)
        self.noise_sides = [s for i in range(n) for s in (size >> i, (size >> i) // (2 if self.fused[i] else 1))][:-1]

    def forward(self, image, noise, _):
        x, rows = F.leaky_relu(self.rgb(image), SLOPE), []

        def after(y, k):
            return F.leaky_relu(y + self.strengths[k] * noise[k] + self.biases[k], SLOPE)

        for i in range(self.n):
            r = x
            rows.append(self.rows1[i](stats(x)))
            y = after(F.conv2d(F.instance_norm(x, eps=1e-8), self.conv1[i], padding=1), 2 * i)
            rows.append(self.rows2[i](stats(y)))
            y = F.instance_norm(y, eps=1e-8)
            if i + 1 < self.n:
                y = blur(y)
                if self.fused[i]:
                    y = after(F.conv2d(y, fused_up(self.conv2[i]) / 4, stride=2, padding=1), 2 * i + 1)
                else:
                    y = F.avg_pool2d(after(F.conv2d(y, self.conv2[i], padding=1), 2 * i + 1), 2)
                r = self.skips[i](F.avg_pool2d(r, 2))
            x = 0.111 * y + 0.889 * r
        return torch.stack(rows[::-1], 1), x


class BigEncoder(nn.Module):
    def __init__(self, size, condition, first, top):
        super().__init__()
        n = int(math.log2(size)) - 1
        w = [min(first << i, top) for i in range(n + 1)]
        self.rgb, self.n = nn.Conv2d(3, w[0], 1), n
        norm = lambda i: ConditionalNorm(w[i], condition, True)
        self.norm1, self.norm2, self.norm3 = (nn.ModuleList(norm(i) for i in range(m)) for m in (n, n - 1, n - 1))
        self.conv1 = nn.ModuleList(nn.Conv2d(w[i], w[i], 3, padding=1) for i in range(n))
        self.conv2 = nn.ModuleList(nn.Conv2d(w[i], w[i + 1], 3, padding=1) for i in range(n - 1))
        self.skips = nn.ModuleList(nn.Conv2d(w[i], w[i + 1], 1) if w[i] != w[i + 1] else nn.Identity() for i in range(n - 1))
        self.c, self.z = nn.Linear(16 * w[n - 1], condition), nn.Linear(condition, condition // 2)
        self.noise_sides = []

    def forward(self, image, _, c):
        x = F.leaky_relu(self.rgb(image), SLOPE)
        for i in range(self.n):
            y = F.leaky_relu(self.conv1[i](self.norm1[i](x, c)), SLOPE)
            if i + 1 < self.n:
                y = F.leaky_relu(self.conv2[i](self.norm2[i](y, c)), SLOPE)
                if isinstance(self.skips[i], nn.Conv2d):
                    x = F.leaky_relu(self.skips[i](self.norm3[i](x, c)), SLOPE)
                y = F.avg_pool2d(y + x, 2)
            x = y
        found = self.c(x.flatten(1))
        return found, self.z(found)


class Features(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.blocks, last = nn.ModuleList(), 3
        for c, count in zip(widths, (2, 2, 3, 3, 3)):
            self.blocks.append(nn.ModuleList(nn.Conv2d(last if k == 0 else c, c, 3, padding=1) for k in range(count)))
            last = c
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[None, :, None, None])

    def forward(self, x):
        x, taps = (x - self.shift) / self.scale, []
        for i, block in enumerate(self.blocks):
            x = F.max_pool2d(x, 2) if i else x
            for layer in block:
                x = F.relu(layer(x))
            taps.append(x)
        return taps


def vectors(a, b):
    a, b = a.flatten(1), b.flatten(1)
    kl = F.kl_div(F.log_softmax(a, 1), F.log_softmax(b, 1), log_target=True, reduction="sum") / len(a)
    cos = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return (a - b).norm(dim=1).mean() + (1 - cos.mean()) + kl


GAUSS = torch.exp(-(((torch.arange(11) - 5) / 1.5) ** 2) / 2)
GAUSS = GAUSS / GAUSS.sum()


def ssim(a, b):
    def window(x):
        return depthwise(depthwise(x, GAUSS[None, None, None]), GAUSS[None, None, :, None])

    c1, c2 = 0.02**2, 0.06**2
    ma, mb = window(a), window(b)
    aa, bb, ab = ma * ma, mb * mb, ma * mb
    va, vb, cov = window(a * a) - aa, window(b * b) - bb, window(a * b) - ab
    return 1 - ((2 * ab + c1) * (2 * cov + c2) / ((aa + bb + c1) * (va + vb + c2))).mean()


def shrunk(x):
    while x.shape[2] > 256:
        x = F.avg_pool2d(x, 2)
    return x


def views(x):
    n = x.shape[2]
    yield x, 1.0
    for ratio, mu in ((0.75, 5.0), (0.6875, 9.0)):
        m = int(ratio * n + 0.5)
        s = (n - m) // 2
        yield F.interpolate(x[:, :, s : s + m, s : s + m], size=n, mode="bilinear", align_corners=False), mu


class Step(nn.Module):
    def __init__(self, family, size, batch, narrow):
        super().__init__()
        self.family, self.batch = family, batch
        if family == "biggan":
            dim, classes = (16, 10) if narrow else (128, 1000)
            channels = [32, 32, 32, 32, 16, 16, 8] if narrow else [c * 128 for c in (16, 16, 16, 16, 8, 8, 8, 8, 4, 4, 2, 2, 1)]
            self.generator = BigGan(size, dim, channels, classes)
            widest = min(channels[0], 512)
        else:
            dim = 32 if narrow else 512
            base, top = (128, 16) if narrow else (32768 if family == "stylegan2" else 16384, 512)
            self.generator = {"stylegan1": StyleGan1, "stylegan2": StyleGan2}[family](size, dim, base, top)
            channels = self.generator.widths
            widest = channels[0]
        first = max(min(channels[-1], 32 * widest // size), 4 * widest // size, 1)
        self.encoder = BigEncoder(size, 2 * dim, first, widest) if family == "biggan" else StyleEncoder(size, dim, first, widest)
        self.features = Features([8, 8, 16, 16, 16] if narrow else [64, 128, 256, 512, 512])
        self.generator.requires_grad_(False).eval()
        self.features.requires_grad_(False)

    def noise(self, sides, device):
        return [torch.randn(self.batch, 1, s, s, device=device) for s in sides]

    def sample(self, device):
        with torch.no_grad():
            latent = self.generator.latent(self.batch, device)
            x = self.generator(latent, self.noise(self.generator.noise_sides, device))
        return latent, x, self.noise(self.encoder.noise_sides, device), self.noise(self.generator.noise_sides, device)

    def loss(self, latent, x, noise_e, noise_g):
        condition = None
        if self.family == "biggan":
            condition = torch.cat([torch.zeros_like(latent[:, : latent.shape[1] // 2]), latent[:, latent.shape[1] // 2 :]], 1)
        found, other = self.encoder(x, noise_e, condition)
        y = self.generator(found, noise_g)
        total = 0.01 * vectors(latent, found)
        if self.family == "biggan":
            total = total + 0.01 * vectors(latent[:, : other.shape[1]], other)
        else:
            total = total + 0.01 * vectors(self.generator.constant.expand_as(other), other)
        for (a, mu), (b, _) in zip(views(x), views(y)):
            a_small, b_small = shrunk(a), shrunk(b)
            with torch.no_grad():
                target = self.features(a_small)
            term = vectors(a, b) + ssim(a_small, b_small)
            term = term + sum(F.mse_loss(p, q) for p, q in zip(self.features(b_small), target))
            total = total + mu * term
        return total


CELLS = [("stylegan1", 1024, 2), ("stylegan2", 256, 8), ("biggan", 256, 8)]


def measure(family, size, batch, a, compiled):
    torch.manual_seed(1)
    device = torch.device(a.device)
    step = Step(family, size, batch, a.narrow).to(device)
    trained = [p for p in step.encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 0.0015, (0.0, 0.99), 1e-8)
    loss_of = torch.compile(step.loss) if compiled else step.loss
    cuda = device.type == "cuda"

    def run():
        loss = loss_of(*step.sample(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return math.isfinite(loss.item())

    start = time.perf_counter()
    finite = run() and run() and run()
    warm_up = time.perf_counter() - start
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(max(1, a.steps)):
        start = time.perf_counter()
        finite = run() and finite
        if cuda:
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) * 1e3)
    peak = torch.cuda.max_memory_allocated(device) if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "cell": f"{family} {size} px, batch {batch}{', narrow' if a.narrow else ''}",
        "kind": "torch.compile" if compiled else "eager",
        "median_ms": sorted(times)[len(times) // 2],
        "milliseconds": times,
        "warm_up_seconds": warm_up,
        "peak_bytes": peak,
        "finite": finite,
    }


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--device", default="cuda:0")
    p.add_argument("--precision", choices=["f32", "tf32"], default="f32")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--narrow", action="store_true")
    p.add_argument("--no-compile", action="store_true")
    a = p.parse_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = a.precision == "tf32"
    torch.backends.cudnn.benchmark = True
    rows = []
    for family, size, batch in CELLS:
        if a.narrow:
            size, batch = 32, 2
        for compiled in [False] if a.no_compile else [False, True]:
            try:
                rows.append(measure(family, size, batch, a, compiled))
            except Exception as e:
                # A failed compilation, say, or too little memory: the other rows count all the same.
                rows.append({"cell": f"{family} {size} px, batch {batch}", "kind": "torch.compile" if compiled else "eager", "error": str(e)[:300]})
            print(json.dumps(rows[-1])[:200], file=sys.stderr)
            if a.device.startswith("cuda"):
                torch.cuda.empty_cache()
    device = torch.cuda.get_device_name(a.device) if a.device.startswith("cuda") else "cpu"
    print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "device": device, "precision": a.precision, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
