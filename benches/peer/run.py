"""Interleaves a training step of this crate and of PyTorch on the same cores and prints medians, their ratio, and the memory of a step.

    cargo bench --bench step --no-run            # builds; the path of the binary is printed
    python benches/peer/run.py target/release/deps/step-<hash> --python <python with torch> [--rounds 30] [--threads 2] [--size true256]
    ... --ops                                    # single operations
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess

HERE = pathlib.Path(__file__).parent


class Side:
    def __init__(self, command, threads):
        env = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ask(self, request):
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        words = self.process.stdout.readline().split(maxsplit=2)
        self.name = words[2].strip() if len(words) > 2 else ""
        return [float(v) for v in words[:2]]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("binary")
    p.add_argument("--python", default="python3")
    p.add_argument("--rounds", type=int, default=30)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--ops", action="store_true", help="a table of single operations instead of the step")
    p.add_argument("--size", choices=["mini", "true256"], default="mini")
    a = p.parse_args()
    start = lambda: (Side([a.binary, "--serve", a.size], a.threads), Side([a.python, str(HERE / "step.py"), str(a.threads), a.size], a.threads))
    ours, torch = start()
    if a.ops:
        print("| operation, forward + backward | ours ms | PyTorch ms | ratio |\n|---|---|---|---|")
        for i in range(int(ours.ask("ops")[0])):
            rows = [(ours.ask(f"op {i}"), torch.ask(f"op {i}")) for _ in range(a.rounds + 2)][2:]
            # Processor time: the machine may be shared.
            mine, theirs = [r[0][1] for r in rows], [r[1][1] for r in rows]
            ratio = statistics.median(m / t for m, t in zip(mine, theirs))
            print(f"| {ours.name} | {statistics.median(mine):.2f} | {statistics.median(theirs):.2f} | {ratio:.2f} |", flush=True)
        return
    losses = ours.ask("loss")[0], torch.ask("loss")[0]
    assert abs(losses[0] / losses[1] - 1) < 1e-3, f"the two steps differ: losses {losses}"
    for _ in range(3 if a.size == "mini" else 1):
        ours.ask("step"), torch.ask("step")
    rows = []
    for i in range(a.rounds):
        pair = (ours.ask("step"), torch.ask("step")) if i % 2 else (torch.ask("step"), ours.ask("step"))[::-1]
        rows.append(pair)
    report = {"size": a.size, "threads": a.threads, "rounds": a.rounds, "loss": losses}
    # Wall time is what a user waits for; processor time tells the truth on a machine that others use at the same time.
    for k, kind in enumerate(("wall", "cpu")):
        ours_ms, torch_ms = [r[0][k] for r in rows], [r[1][k] for r in rows]
        report[kind] = {
            "ours_ms": round(statistics.median(ours_ms), 1),
            "torch_ms": round(statistics.median(torch_ms), 1),
            "ratio_of_medians": round(statistics.median(ours_ms) / statistics.median(torch_ms), 3),
            "median_of_ratios": round(statistics.median(o / t for o, t in zip(ours_ms, torch_ms)), 3),
            "ratio_of_best": round(min(ours_ms) / min(torch_ms), 3),
        }
    report["peak_mb"] = [round(s.ask("peak")[0]) for s in (ours, torch)]
    # Fresh processes: what the first five steps add to the resident memory, and what is in use at one time.
    report["step_memory_mb"] = {name: [round(v) for v in side.ask("memory")] for name, side in zip(("ours", "torch"), start())}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
