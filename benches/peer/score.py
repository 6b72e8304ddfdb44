"""The pixel metrics of `mtv-bench score` by scikit-image and Pillow: same pictures, same protocol, PNG files to a CSV table.

usage: score.py DIR_A DIR_B OUT.csv PROCESSES METRICS     (METRICS: comma-separated, as `mtv-bench score --metrics`)
"""

import csv
import os
import sys
from multiprocessing import Pool

import numpy as np
from PIL import Image
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity


def cosine(a, b):
    x, y = a.astype(np.float64).ravel() / 127.5 - 1, b.astype(np.float64).ravel() / 127.5 - 1
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


MEASURES = {
    "psnr": lambda a, b: peak_signal_noise_ratio(a, b, data_range=255),
    "ssim-uniform7": lambda a, b: structural_similarity(a, b, data_range=255, channel_axis=2),
    "ssim-gauss-wang": lambda a, b: structural_similarity(
        a, b, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    ),
    "mse": mean_squared_error,
    "cosine": cosine,
}


def row(job):
    name, path_a, path_b, metrics = job
    a = np.asarray(Image.open(path_a).convert("RGB"))
    b = np.asarray(Image.open(path_b).convert("RGB"))
    return [name] + [float(MEASURES[m](a, b)) for m in metrics]


def main():
    dir_a, dir_b, out, processes, metrics = sys.argv[1:]
    metrics = metrics.split(",")
    names = sorted(set(os.listdir(dir_a)) & set(os.listdir(dir_b)))
    jobs = [(os.path.splitext(n)[0], os.path.join(dir_a, n), os.path.join(dir_b, n), metrics) for n in names]
    with Pool(int(processes)) as pool:
        rows = pool.map(row, jobs, chunksize=4)
    with open(out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name"] + metrics)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
