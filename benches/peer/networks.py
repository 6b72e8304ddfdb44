"""LPIPS by the `lpips` package and the FID features by `pytorch-fid`: PNG files to a CSV table, on the CPU, with given weights.

usage: networks.py weights FOLDER                          (draws weights; writes them for both programs, with cards for mtv-bench)
       networks.py lpips|features|fid DIR_A DIR_B OUT.csv WEIGHTS THREADS
"""

import csv
import hashlib
import json
import os
import sys
import warnings

import numpy as np
import torch

warnings.filterwarnings("ignore")


def vgg():
    from torchvision.models import vgg16

    return vgg16(weights=None)


def inception(state=None):
    """pytorch-fid's network, its download replaced by `state`."""
    import pytorch_fid.inception as fid

    if state is None:
        real = fid._inception_v3
        fid._inception_v3 = lambda *a, **k: real(*a, **{**k, "init_weights": False, "weights": None})
        holder = torch.nn.Module.load_state_dict
        torch.nn.Module.load_state_dict = lambda self, *_a, **_k: None
        try:
            fid.load_state_dict_from_url = lambda *_, **__: None
            return fid.fid_inception_v3()
        finally:
            torch.nn.Module.load_state_dict = holder
            fid._inception_v3 = real
    fid.load_state_dict_from_url = lambda *_, **__: state
    return fid.InceptionV3([fid.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()


def drawn(shapes, seed):
    """He-normal kernels, small biases, batch norms near one: activations keep their size, so no denormal numbers slow anything down."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, t in shapes.items():
        if name.endswith("num_batches_tracked"):
            out[name] = torch.zeros((), dtype=torch.int64)
        elif t.ndim > 1:
            out[name] = torch.randn(t.shape, generator=g) * (2.0 / t[0].numel()) ** 0.5
        elif name.endswith(("bn.weight", "running_var")):
            out[name] = 0.5 + torch.rand(t.shape, generator=g)
        else:
            out[name] = 0.1 * torch.randn(t.shape, generator=g)
    return out


def safetensors(tensors, path):
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    head, at = {}, 0
    for name, t in tensors.items():
        size = t.numel() * t.element_size()
        head[name] = {"dtype": kinds[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            file.write(t.contiguous().numpy().tobytes())


CARDS = {
    "vgg16": ("classifier", "vgg16", "timm", 1000),
    "lpips_vgg16": ("metric_network", "lpips_vgg16", "perceptual_similarity", None),
    "inception_fid": ("metric_network", "inception", "pytorch_fid", 1008),
}


def weights(folder):
    os.makedirs(os.path.join(folder, "baselines"), exist_ok=True)
    with torch.no_grad():
        heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=torch.Generator().manual_seed(i)) for i, c in enumerate([64, 128, 256, 512, 512])}
        features = {k: v for k, v in vgg().state_dict().items() if k.startswith("features.")}
        nets = {"vgg16": drawn(features, 1), "lpips_vgg16": heads, "inception_fid": drawn(inception().state_dict(), 2)}
    for name, tensors in nets.items():
        torch.save(tensors, os.path.join(folder, f"{name}.pt"))
        path = os.path.join(folder, "baselines", f"{name}.safetensors")
        safetensors(tensors, path)
        with open(path, "rb") as file:
            sha = hashlib.sha256(file.read()).hexdigest()
        kind, family, layout, classes = CARDS[name]
        with open(os.path.join(folder, "baselines", f"{name}.toml"), "w") as file:
            file.write(f'name = "{name}"\nkind = "{kind}"\ntitle = "drawn weights for a measurement"\nsha256 = "{sha}"\nresolution = 299\n'
                       f'[source.embedded]\nfile = "{name}.safetensors"\n[network]\nfamily = "{family}"\nlayout = "{layout}"\n'
                       + (f"classes = {classes}\n" if classes else "") + '[licence]\nname = "CC0"\n')


def names(a, b):
    return sorted(set(os.listdir(a)) & set(os.listdir(b)))


def lpips_rows(dir_a, dir_b, folder):
    import lpips
    from PIL import Image

    net = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False).eval()
    own = torch.load(os.path.join(folder, "vgg16.pt"))
    slices = {}
    for key in net.net.state_dict():
        _, index, what = key.split(".")
        slices[key] = own[f"features.{index}.{what}"]
    net.net.load_state_dict(slices)
    heads = torch.load(os.path.join(folder, "lpips_vgg16.pt"))
    for i in range(5):
        getattr(net, f"lin{i}").model[1].weight.data = heads[f"lin{i}.model.1.weight"]

    def load(path):
        x = torch.from_numpy(np.asarray(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1
        return x[None]

    with torch.inference_mode():
        for n in names(dir_a, dir_b):
            yield [os.path.splitext(n)[0], float(net(load(os.path.join(dir_a, n)), load(os.path.join(dir_b, n))))]


def fid_rows(dir_a, dir_b, folder, distance=True):
    from pytorch_fid import fid_score

    model = inception(torch.load(os.path.join(folder, "inception_fid.pt")))
    moments = [fid_score.compute_statistics_of_path(d, model, 8, 2048, "cpu", num_workers=0) for d in (dir_a, dir_b)]
    yield ["fid", distance and float(fid_score.calculate_frechet_distance(*moments[0], *moments[1]))]


def main():
    if sys.argv[1] == "weights":
        return weights(sys.argv[2])
    what, dir_a, dir_b, out, folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    rows = list(lpips_rows(dir_a, dir_b, folder) if what == "lpips" else fid_rows(dir_a, dir_b, folder, what == "fid"))
    with open(out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", what])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
