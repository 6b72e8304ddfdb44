"""The operations of benches/step/single.rs in PyTorch, in the same order."""
import torch
import torch.nn.functional as F

from step import BLUR, formula


def leaf(seed, shape, std=1.0):
    return formula(seed, shape, std).requires_grad_(True)


def every():
    ops = []
    for n, i, o, side, k, frozen in [
        (8, 16, 16, 64, 3, False), (8, 32, 32, 32, 3, False), (8, 64, 64, 16, 3, False), (8, 64, 64, 8, 3, False),
        (8, 64, 64, 4, 3, False), (8, 16, 32, 32, 1, False), (8, 8, 8, 64, 3, True), (8, 32, 32, 32, 3, True),
        (8, 64, 64, 16, 3, True), (1, 64, 32, 256, 3, True),
    ]:
        x, w = leaf(1, [n, i, side, side]), formula(2, [o, i, k, k], 0.1) if frozen else leaf(2, [o, i, k, k])
        ops.append(([x, w], lambda x=x, w=w, k=k: F.conv2d(x, w, padding=k // 2)))
    x, w = leaf(1, [8, 32, 32, 32]), leaf(2, [32, 16, 4, 4])
    ops.append(([x, w], lambda x=x, w=w: F.conv_transpose2d(x, w, stride=2, padding=1)))
    x, w, b = leaf(1, [64, 512]), leaf(2, [512, 512]), leaf(3, [512])
    ops.append(([x, w, b], lambda x=x, w=w, b=b: F.linear(x, w, b)))
    x = leaf(1, [8, 32, 32, 32])
    one = lambda f: ops.append(([x], lambda: f(x)))
    one(lambda x: F.conv2d(x, BLUR.expand(32, 1, 3, 3), padding=1, groups=32))
    one(lambda x: F.instance_norm(x, eps=1e-5))
    s = leaf(2, [8, 64])
    ops.append(([x, s], lambda: F.instance_norm(x, eps=1e-5) * (s[:, :32, None, None] + 1) + s[:, 32:, None, None]))

    def stats(x):
        m = x.mean((2, 3), keepdim=True)
        return torch.cat([m, (x - m).square().mean((2, 3), keepdim=True).sqrt()], 1)[:, :, 0, 0]

    one(stats)
    z, st, b = formula(2, [8, 1, 32, 32], 1.0), leaf(3, [1, 32, 1, 1]), leaf(4, [1, 32, 1, 1])
    ops.append(([x, st, b], lambda: F.leaky_relu(x + st * z + b, 0.2)))
    one(lambda x: F.leaky_relu(x, 0.2))
    one(lambda x: F.interpolate(x, scale_factor=2))
    one(lambda x: F.avg_pool2d(x, 2))
    one(lambda x: F.max_pool2d(x, 2))
    one(lambda x: x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
    y = leaf(1, [8, 3, 64, 64])
    t = torch.tensor([0.05 + i / 100 for i in range(11)])

    def window(x):
        x = F.conv2d(x, t[None, None, None].expand(3, 1, 1, 11), groups=3)
        return F.conv2d(x, t[None, None, :, None].expand(3, 1, 11, 1), groups=3)

    ops.append(([y], lambda: window(y)))
    ops.append(([y], lambda: F.interpolate(y[:, :, 8:56, 8:56], size=64, mode="bilinear", align_corners=False)))
    v = leaf(1, [8, 12288])
    ops.append(([v], lambda: F.log_softmax(v, 1)))
    return ops


def run(op):
    leaves, forward = op
    for t in leaves:
        t.grad = None
    forward().sum().backward()
