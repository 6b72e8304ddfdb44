"""The step of benches/step/main.rs in PyTorch, with the same weights, latents and noise (see its head). Requests on standard input."""
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

SLOPE, FUSED_FROM = 0.2, 128
# batch, w, generator, encoder, features
SIZES = {
    "mini": (8, 128, [64, 64, 64, 32, 16], [16, 32, 64, 64, 64], [(8, 2), (16, 2), (32, 3), (64, 3), (64, 3)]),
    "true256": (1, 512, [512, 512, 512, 512, 256, 128, 64], [64, 128, 256, 512, 512, 512, 512], [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]),
}
BATCH, W_DIM, GENERATOR, ENCODER, FEATURES = SIZES[sys.argv[2] if len(sys.argv) > 2 else "mini"]
SIDE = 2 << len(GENERATOR)


def formula(seed, shape, std):
    i = np.arange(1, int(np.prod(shape)) + 1, dtype=np.float64)
    v = np.sin(i * 12.9898 + seed * 78.233) * 43758.5453
    return torch.from_numpy(((v - np.floor(v) - 0.5) * 12 ** 0.5 * std).astype(np.float32).reshape(shape))


class Maker:
    def __init__(self, count, trained):
        self.count, self.trained, self.vars = count, trained, []

    def make(self, shape, std):
        self.count += 1
        t = formula(self.count, shape, std)
        if self.trained:
            t.requires_grad_(True)
            self.vars.append(t)
        return t

    def conv(self, o, i, k):
        return self.make([o, i, k, k], (2 / (i * k * k)) ** 0.5)

    def channels(self, c, std):
        return self.make([1, c, 1, 1], std)

    def fc(self, o, i):
        return self.make([o, i], (1 / i) ** 0.5), self.make([o], 0.1)

    def layer(self, c, o, i):
        return self.channels(c, 0.1), self.channels(c, 0.1), self.fc(o, i)


k = torch.tensor([1.0, 2.0, 1.0])
BLUR = (k[:, None] * k[None] / 16)[None, None]


def blur(x):
    c = x.shape[1]
    return F.conv2d(x, BLUR.expand(c, 1, 3, 3), padding=1, groups=c)


def spread(w):
    p = F.pad(w, (1, 1, 1, 1))
    return p[:, :, 1:, 1:] + p[:, :, :-1, 1:] + p[:, :, 1:, :-1] + p[:, :, :-1, :-1]


class Generator:
    def __init__(self, m):
        self.mapping = [m.fc(W_DIM, W_DIM) for _ in range(8)]
        self.constant = m.make([1, GENERATOR[0], 4, 4], 1.0)
        self.blocks, last = [], GENERATOR[0]
        for i, c in enumerate(GENERATOR):
            up = None if not i else m.make([last, c, 3, 3], (2 / (9 * last)) ** 0.5) if 4 << i >= FUSED_FROM else m.conv(c, last, 3)
            first = m.layer(c, 2 * c, W_DIM)
            conv = m.conv(c, c, 3)
            self.blocks.append((up, first, conv, m.layer(c, 2 * c, W_DIM)))
            last = c
        self.rgb = m.make([3, last, 1, 1], (0.3 / last) ** 0.5), m.make([3], 0.1)

    def map(self, z):
        w = z * torch.rsqrt((z * z).mean(1, keepdim=True) + 1e-8)
        for weight, bias in self.mapping:
            w = F.leaky_relu(F.linear(w, weight, bias), SLOPE)
        return w[:, None].repeat(1, 2 * len(GENERATOR), 1)

    def image(self, w, noise):
        def layer(x, l, i):
            strength, bias, fc = l
            x = F.instance_norm(F.leaky_relu(x + strength * noise[i] + bias, SLOPE), eps=1e-8)
            s = F.linear(w[:, i], *fc)
            c = x.shape[1]
            return x * (s[:, :c, None, None] + 1) + s[:, c:, None, None]

        x = self.constant.expand(w.shape[0], -1, -1, -1)
        for i, (up, first, conv, second) in enumerate(self.blocks):
            if up is not None:
                if 4 << i >= FUSED_FROM:
                    x = blur(F.conv_transpose2d(x, spread(up), stride=2, padding=1))
                else:
                    x = blur(F.conv2d(F.interpolate(x, scale_factor=2), up, padding=1))
            x = layer(x, first, 2 * i)
            x = layer(F.conv2d(x, conv, padding=1), second, 2 * i + 1)
        return F.conv2d(x, *self.rgb)


def stats(x):
    m = x.mean((2, 3), keepdim=True)
    return torch.cat([m, (x - m).square().mean((2, 3), keepdim=True).sqrt()], 1)[:, :, 0, 0]


class Encoder:
    def __init__(self, m):
        self.rgb = m.make([ENCODER[0], 3, 1, 1], 0.8), m.make([ENCODER[0]], 0.1)
        self.blocks = []
        for i, c in enumerate(ENCODER):
            first = m.layer(c, W_DIM, 2 * c)
            conv, fc2 = m.conv(c, c, 3), m.fc(W_DIM, 2 * c)
            second = skip = None
            if i + 1 < len(ENCODER):
                to = ENCODER[i + 1]
                second = m.conv(to, c, 3), m.channels(to, 0.1), m.channels(to, 0.1)
                if to != c:
                    skip = m.conv(to, c, 1), m.make([to], 0.1)
            self.blocks.append((first, conv, fc2, second, skip))

    def forward(self, image, noise):
        x = F.leaky_relu(F.conv2d(image, *self.rgb), SLOPE)
        rows = []
        for i, ((strength, bias, fc1), conv, fc2, second, skip) in enumerate(self.blocks):
            w1 = F.linear(stats(x), *fc1)
            r = x
            y = F.conv2d(F.instance_norm(x, eps=1e-5), conv, padding=1)
            y = F.leaky_relu(y + strength * noise[2 * i] + bias, SLOPE)
            w2 = F.linear(stats(y), *fc2)
            y = F.instance_norm(y, eps=1e-5)
            if second is not None:
                conv2, strength2, bias2 = second
                fused = y.shape[2] >= FUSED_FROM
                y = F.conv2d(blur(y), spread(conv2) * 0.25, stride=2, padding=1) if fused else F.conv2d(blur(y), conv2, padding=1)
                y = F.leaky_relu(y + strength2 * noise[2 * i + 1] + bias2, SLOPE)
                y, r = y if fused else F.avg_pool2d(y, 2), F.avg_pool2d(r, 2)
            if skip is not None:
                r = F.conv2d(r, *skip)
            x = 0.111 * y + 0.889 * r
            rows += [w1, w2]
        return torch.stack(rows[::-1], 1), x


class Features:
    def __init__(self, m):
        self.blocks, last = [], 3
        for c, layers in FEATURES:
            block = []
            for _ in range(layers):
                block.append((m.conv(c, last, 3), m.make([c], 0.1)))
                last = c
            self.blocks.append(block)

    def forward(self, x):
        taps = []
        for i, block in enumerate(self.blocks):
            if i:
                x = F.max_pool2d(x, 2)
            for w, b in block:
                x = F.relu(F.conv2d(x, w, b, padding=1))
            taps.append(x)
        return taps


def vectors(a, b):
    a, b = a.flatten(1), b.flatten(1)
    kl = F.kl_div(F.log_softmax(a, 1), F.log_softmax(b, 1), log_target=True, reduction="sum") / a.shape[0]
    cos = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return (a - b).norm(dim=1).mean() + (1 - cos.mean()) + kl


t = torch.exp(-(((torch.arange(11, dtype=torch.float64) - 5) / 1.5) ** 2) / 2)
t = (t / t.sum()).float()


def window(x):
    c = x.shape[1]
    x = F.conv2d(x, t[None, None, None].expand(c, 1, 1, 11), groups=c)
    return F.conv2d(x, t[None, None, :, None].expand(c, 1, 11, 1), groups=c)


def ssim(a, b):
    c1, c2 = 0.02 ** 2, 0.06 ** 2
    ma, mb = window(a), window(b)
    aa, bb, ab = ma * ma, mb * mb, ma * mb
    va, vb, cov = window(a * a) - aa, window(b * b) - bb, window(a * b) - ab
    return 1 - ((2 * ab + c1) * (2 * cov + c2) / ((aa + bb + c1) * (va + vb + c2))).mean()


class Step:
    def __init__(self):
        frozen, trained = Maker(0, False), Maker(1000, True)
        self.generator, self.features = Generator(frozen), Features(frozen)
        self.encoder = Encoder(trained)
        layers = range(2 * len(GENERATOR))
        up, down = [4 << i // 2 for i in layers], [SIDE >> i // 2 for i in layers]
        down = [r // 2 if i % 2 and r >= FUSED_FROM else r for i, r in enumerate(down)]
        self.noise = [[formula(s + i, [BATCH, 1, r, r], 1.0) for i, r in enumerate(sizes)] for s, sizes in ((9100, up), (9200, down), (9300, up))]
        self.z = formula(9000, [BATCH, W_DIM], 1.0)
        self.optimizer = torch.optim.Adam(trained.vars, 0.0015, (0.0, 0.99), 1e-8)

    def attention(self, x, y):
        with torch.no_grad():
            fx = self.features.forward(x)
        loss = vectors(x, y) + ssim(x, y)
        for a, b in zip(fx, self.features.forward(y)):
            loss = loss + F.mse_loss(a, b)
        return loss

    def loss(self):
        with torch.no_grad():
            w = self.generator.map(self.z)
            x = self.generator.image(w, self.noise[0])
        latent, constant = self.encoder.forward(x, self.noise[1])
        y = self.generator.image(latent, self.noise[2])
        loss = self.attention(x, y)
        for m, mu in ((SIDE * 3 // 4, 5), (SIDE * 11 // 16, 9)):
            s = (SIDE - m) // 2
            view = lambda v: F.interpolate(v[:, :, s:s + m, s:s + m], size=SIDE, mode="bilinear", align_corners=False)
            loss = loss + mu * self.attention(view(x), view(y))
        target = self.generator.constant.expand_as(constant)
        return loss + 0.01 * vectors(w, latent) + 0.01 * vectors(target, constant)

    def run(self):
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def status(key):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(key + ":")) * 1024 / 1e6


def memory(step):
    """Megabytes that five steps need above what is there before them: resident, and tensors in use at one time."""
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")
    before = status("VmRSS")
    for _ in range(5):
        step.run()
    resident = status("VmHWM") - before
    # Gradients of the last step are still there; the profiler counts from here.
    step.optimizer.zero_grad()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as p:
        step.run()
    events = sorted((e for e in p.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    now = most = 0
    for e in events:
        now += e.nbytes()
        most = max(most, now)
    return resident, most / 1e6


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    step, single = Step(), None
    for line in sys.stdin:
        request = line.strip()
        start, cpu = time.perf_counter(), time.process_time()
        if request == "loss":
            print(step.loss().item(), flush=True)
        elif request == "step":
            step.run()
            print((time.perf_counter() - start) * 1e3, (time.process_time() - cpu) * 1e3, flush=True)
        elif request.startswith("op "):
            if single is None:
                import single
                every = single.every()
            start, cpu = time.perf_counter(), time.process_time()
            for _ in range(5):
                single.run(every[int(request[3:])])
            print((time.perf_counter() - start) * 1e3 / 5, (time.process_time() - cpu) * 1e3 / 5, flush=True)
        elif request == "memory":
            print(*memory(step), flush=True)
        elif request == "peak":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, flush=True)
