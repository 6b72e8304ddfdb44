"""Measures `mtv-bench score` against score.py (scikit-image), interleaved, and its peak memory at 100 and 10,000 pairs.

usage: bench_score.py MTV_BENCH OUT.md PICTURES [ROUNDS] [PAIRS]

PICTURES is a folder with PNG files of any size; crops of 512x512 are cut from them, and disturbed copies made, in a temporary
folder. Both programs get the same two cores (the first two of this process), the same files and the same metrics; files are in
the page cache. Needs scikit-image, Pillow, numpy.
"""

import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))


def make(folder, sources, count):
    rng = np.random.default_rng(0)
    a, b = os.path.join(folder, "a"), os.path.join(folder, "b")
    os.makedirs(a), os.makedirs(b)
    pictures = [np.asarray(Image.open(os.path.join(sources, n)).convert("RGB")) for n in sorted(os.listdir(sources)) if n.endswith(".png")]
    pictures = [p for p in pictures if min(p.shape[:2]) >= 256]
    for i in range(count):
        p = pictures[i % len(pictures)]
        y, x = (int(rng.integers(0, max(1, s - 256 + 1))) for s in p.shape[:2])
        crop = Image.fromarray(p[y : y + 512, x : x + 512]).resize((512, 512), Image.BICUBIC)
        u = np.asarray(crop).astype(np.int16)
        v = u + rng.normal(0, 4 + i % 12, u.shape).astype(np.int16)
        crop.save(os.path.join(a, f"{i:05}.png"))
        Image.fromarray(np.clip(v, 0, 255).astype(np.uint8)).save(os.path.join(b, f"{i:05}.png"))
    return a, b


def timed(command, env=None):
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def read(path):
    with open(path) as file:
        return {r["name"]: r for r in csv.DictReader(file)}


def peak(command, env):
    code = "import resource,subprocess,sys; subprocess.run(sys.argv[1:],check=True,stdout=subprocess.DEVNULL,stderr=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    return int(subprocess.run([sys.executable, "-c", code] + command, check=True, capture_output=True, text=True, env=env).stdout) / 1024


def main():
    binary, out, sources = sys.argv[1:4]
    rounds, count = (int(v) for v in (sys.argv[4:] + ["5", "100"][len(sys.argv) - 4 :]))
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)
    env = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", RAYON_NUM_THREADS=str(len(cores)))
    groups = {"as the paper's table": "psnr,ssim-uniform7,mse,cosine", "with Wang's SSIM too": "psnr,ssim-uniform7,ssim-gauss-wang,mse,cosine"}
    lines = [f"`mtv-bench score` and scikit-image on {count} pairs of 512x512 PNG files, from files to a CSV table, on the same {len(cores)} cores,",
             f"in turn, {rounds} rounds, median (and range). Wall time in seconds, then CPU time; scikit-image in {len(cores)} processes.", "",
             "| metrics | mtv-bench | CPU | scikit-image | CPU | times faster (wall) | times less CPU | largest difference |", "|---|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as tmp:
        a, b = make(tmp, sources, count)
        for title, metrics in groups.items():
            mine, peer = os.path.join(tmp, "mine.csv"), os.path.join(tmp, "peer.csv")
            commands = [
                [binary, "--quiet", "score", a, b, "--metrics", metrics, "--no-cache", "--csv", mine],
                [sys.executable, os.path.join(HERE, "score.py"), a, b, peer, str(len(cores)), metrics],
            ]
            times = [[], []]
            for k in range(rounds + 1):
                for i, command in enumerate(commands):
                    seconds = timed(command, env)
                    if k > 0:
                        times[i].append(seconds)
            got, want = read(mine), read(peer)
            assert got.keys() == want.keys()
            worst = max(abs(float(got[n][m + "@native"]) - float(want[n][m])) for n in got for m in metrics.split(","))
            wall = [[t[0] for t in ts] for ts in times]
            cpu = [[t[1] for t in ts] for ts in times]
            med = statistics.median
            show = lambda v: f"{med(v):.2f} ({min(v):.2f}-{max(v):.2f})"
            lines.append(f"| {title}: {metrics} | {show(wall[0])} | {show(cpu[0])} | {show(wall[1])} | {show(cpu[1])} | "
                         f"{med(wall[1]) / med(wall[0]):.1f} | {med(cpu[1]) / med(cpu[0]):.1f} | {worst:.1e} |")
        lines += ["", f"Load of the machine while this ran (1 minute): {os.getloadavg()[0]:.1f}.", "", "Peak memory of `mtv-bench score` (all metrics of the second row):", ""]
        big = os.path.join(tmp, "big")
        os.makedirs(os.path.join(big, "a")), os.makedirs(os.path.join(big, "b"))
        for n in (100, 10000):
            for i in range(n):
                for side, folder in (("a", a), ("b", b)):
                    link = os.path.join(big, side, f"{i:05}.png")
                    if not os.path.exists(link):
                        os.link(os.path.join(folder, f"{i % count:05}.png"), link)
            command = [binary, "--quiet", "score", os.path.join(big, "a"), os.path.join(big, "b"), "--metrics", groups["with Wang's SSIM too"], "--no-cache"]
            start = time.perf_counter()
            lines.append(f"- {n} pairs: {peak(command, env):.0f} MiB, {time.perf_counter() - start:.1f} s")
    with open(out, "w") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
