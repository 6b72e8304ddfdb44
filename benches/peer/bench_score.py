"""Measures `mtv-bench score` against scikit-image, the lpips package and pytorch-fid, in turn, and its peak memory at 100 and 10,000 pairs.

usage: bench_score.py MTV_BENCH OUT.md PICTURES [--rounds N] [--pairs N] [--threads N] [--parts pixels,lpips,fid,memory]

PICTURES is a folder with PNG files of any size; crops of 512x512 are cut from them, and disturbed copies made, in a temporary
folder. Both programs get the same cores (the first of this process), the same files and the same metrics; files are in the page
cache. LPIPS and FID run with drawn weights, the same on both sides (networks.py), and are timed as the difference between a run over
all pairs and one over a quarter of them, so that starting Python or reading weights counts on neither side. Needs scikit-image,
Pillow, numpy, torch, torchvision, lpips, pytorch-fid.
"""

import argparse
import csv
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
WANG = "psnr,ssim-uniform7,ssim-gauss-wang,mse,cosine"
MEDIAN = statistics.median


def make(folder, sources, count, side=512):
    rng = np.random.default_rng(0)
    a, b = os.path.join(folder, "a"), os.path.join(folder, "b")
    os.makedirs(a), os.makedirs(b)
    pictures = [np.asarray(Image.open(os.path.join(sources, n)).convert("RGB")) for n in sorted(os.listdir(sources)) if n.endswith(".png")]
    pictures = [p for p in pictures if min(p.shape[:2]) >= 256]
    for i in range(count):
        p = pictures[i % len(pictures)]
        y, x = (int(rng.integers(0, max(1, s - 256 + 1))) for s in p.shape[:2])
        crop = Image.fromarray(p[y : y + 512, x : x + 512]).resize((side, side), Image.BICUBIC)
        u = np.asarray(crop).astype(np.int16)
        v = u + rng.normal(0, 4 + i % 12, u.shape).astype(np.int16)
        crop.save(os.path.join(a, f"{i:05}.png"))
        Image.fromarray(np.clip(v, 0, 255).astype(np.uint8)).save(os.path.join(b, f"{i:05}.png"))
    return a, b


def some(folders, count, to):
    """Hard links to the first `count` files of two folders."""
    out = []
    for source in folders:
        target = os.path.join(to, os.path.basename(source))
        os.makedirs(target)
        names = sorted(os.listdir(source))
        for i in range(count):
            os.link(os.path.join(source, names[i % len(names)]), os.path.join(target, f"{i:05}.png"))
        out.append(target)
    return out


def timed(command, env, cwd):
    """(wall, processor) seconds."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, cwd=cwd)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def read(path):
    with open(path) as file:
        return {r["name"]: r for r in csv.DictReader(file)}


def peak(command, env, cwd):
    code = "import resource,subprocess,sys; subprocess.run(sys.argv[1:],check=True,stdout=subprocess.DEVNULL,stderr=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    return int(subprocess.run([sys.executable, "-c", code] + command, check=True, capture_output=True, text=True, env=env, cwd=cwd).stdout) / 1024


def row(title, rounds, note):
    """A table line from rounds of ((our wall, our processor), (peer's wall, peer's processor))."""
    show = lambda v, d=2: f"{MEDIAN(v):.{d}f} ({min(v):.{d}f}-{max(v):.{d}f})"
    cells = [show([r[who][what] for r in rounds]) for who in (0, 1) for what in (0, 1)]
    ratios = [show([r[1][what] / r[0][what] for r in rounds], 1) for what in (0, 1)]
    return f"| {title} | {' | '.join(cells)} | {' | '.join(ratios)} | {note} |"


def main():
    arguments = argparse.ArgumentParser()
    for name in ("binary", "out", "pictures"):
        arguments.add_argument(name)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--pairs", type=int, default=100)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--parts", default="pixels,lpips,fid,memory")
    args = arguments.parse_args()
    binary, parts = os.path.abspath(args.binary), args.parts.split(",")
    cores = sorted(os.sched_getaffinity(0))[: args.threads]
    os.sched_setaffinity(0, cores)
    threads = str(len(cores))
    env = dict(os.environ, OPENBLAS_NUM_THREADS="1", RAYON_NUM_THREADS=threads)
    ours = lambda a, b, *more: [binary, "--quiet", "--threads", threads, "score", a, b, "--no-cache", *more]
    lines = [f"{args.rounds} rounds, the two programs in turn, on the same {threads} core(s); seconds as median (least-most), ratios as median (least-most)",
             "of the ratios of the rounds; above 1 mtv-bench is faster. Load of the machine at the start (1 minute): "
             f"{os.getloadavg()[0]:.1f}. {platform.processor() or platform.machine()}, Python {platform.python_version()}.", "",
             "| what | wall | processor | peer: wall | processor | ratio, wall | ratio, processor | largest difference |", "|---|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as tmp:
        at = lambda name: os.path.join(tmp, name)
        a, b = make(tmp, args.pictures, args.pairs)
        if "pixels" in parts:
            for title, metrics in {"Table III's": "psnr,ssim-uniform7,mse,cosine", "with Wang's SSIM": WANG}.items():
                mine, peer = at("mine.csv"), at("peer.csv")
                commands = [ours(a, b, "--metrics", metrics, "--csv", mine),
                            [sys.executable, os.path.join(HERE, "score.py"), a, b, peer, threads, metrics]]
                one = dict(env, OMP_NUM_THREADS="1")
                rounds = [[timed(c, one, tmp) for c in commands] for _ in range(args.rounds + 1)][1:]
                got, want = read(mine), read(peer)
                assert got.keys() == want.keys()
                worst = max(abs(float(got[n][m + "@native"]) - float(want[n][m])) for n in got for m in metrics.split(","))
                lines.append(row(f"{args.pairs} pairs of 512x512 PNG, files to CSV, metrics {title} ({metrics}); peer scikit-image in {threads} processes", rounds, f"{worst:.0e}"))
        nets = [p for p in ("lpips", "fid") if p in parts]
        if nets:
            subprocess.run([sys.executable, os.path.join(HERE, "networks.py"), "weights", tmp], check=True)
            few, many = max(2, args.pairs // 10), max(8, args.pairs * 4 // 10)
            sets = {n: some(make_small(tmp, args.pictures, many), n, os.path.join(tmp, f"n{n}")) for n in (few, many)}
            for what in nets:
                metric = "lpips-vgg-v0.1" if what == "lpips" else "fid-pytorch"
                difference = lambda t, n: tuple(x - y for x, y in zip(t[many], t[few]))
                rounds = []
                for _ in range(args.rounds):
                    mine, peer = {}, {}
                    for n, folders in sets.items():
                        mine[n] = timed(ours(*folders, "--metrics", metric, "--format", "json", "--json", at("mine.json")), env, tmp)
                        task = "lpips" if what == "lpips" else "features"
                        peer[n] = timed([sys.executable, os.path.join(HERE, "networks.py"), task, *folders, at("peer.csv"), tmp, threads], dict(env, OMP_NUM_THREADS=threads), tmp)
                    rounds.append([difference(mine, None), difference(peer, None)])
                if what == "fid":
                    timed([sys.executable, os.path.join(HERE, "networks.py"), what, *sets[many], at("peer.csv"), tmp, threads], env, tmp)
                label = f"LPIPS (VGG16) of {many - few} pairs of 256x256; peer lpips" if what == "lpips" else f"FID features of {2 * (many - few)} pictures of 256x256, with mean and covariance; peer pytorch-fid (without the distance)"
                lines.append(row(label, rounds, agreement(what, at("mine.json"), at("peer.csv"))))
        if "memory" in parts:
            lines += ["", "Peak memory of `mtv-bench score` (the five pixel metrics, pictures of 128x128, so that 10,000 pairs take little time):", ""]
            small = make(at_folder(tmp, "small"), args.pictures, 20, 128)
            for n in (100, 1000, 10000):
                folders = some(small, n, at(f"m{n}"))
                start = time.perf_counter()
                lines.append(f"- {n} pairs: {peak(ours(*folders, '--metrics', WANG), env, tmp):.1f} MiB, {time.perf_counter() - start:.1f} s")
    with open(args.out, "w") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


def at_folder(tmp, name):
    path = os.path.join(tmp, name)
    os.makedirs(path)
    return path


def make_small(tmp, sources, count):
    path = os.path.join(tmp, "nets")
    if os.path.isdir(path):
        return os.path.join(path, "a"), os.path.join(path, "b")
    return make(at_folder(tmp, "nets"), sources, count, 256)


def agreement(what, mine, peer):
    """The largest relative difference of the two programs' values."""
    import json

    got, want = json.load(open(mine)), read(peer)
    if what == "fid":
        return f"{abs(got['sets'][0]['value'] / float(want['fid']['fid']) - 1):.0e}"
    scores = {p["name"]: p["scores"]["lpips-vgg-v0.1@native"] for p in got["pairs"]}
    return f"{max(abs(scores[n] / float(want[n]['lpips']) - 1) for n in want):.0e}"


if __name__ == "__main__":
    main()
