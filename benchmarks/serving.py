"""Throughput and latency of the service under load, with and without batching, and of a naive service.

Clients on loopback, each with one request at a time, send images of mixed sizes. Three services answer the same
requests, each in a process of its own: `detr serve` as it is, `detr serve --batch-size 1`, and a naive service that
calls transformers' pipeline (with this package's classes, so that the model is equally fast) once per request behind a
lock, in threads. Every answer is compared with that of the detector on that image alone before anything is printed; a
lost or crossed answer ends the run.

    python benchmarks/serving.py --requests 2000 --clients 32 --model facebook/detr-resnet-50

Without --model, a tiny random one is made, whose times say something of the service only.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import io
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIZES = [(640, 480), (480, 640), (640, 427), (500, 375), (640, 640), (375, 500), (612, 612), (640, 360)]
IMAGES = 24
THRESHOLD = 0.3
SCORES = 2e-3
PIXELS = 2
MEMORY_SECONDS = 0.25


@dataclass
class Run:
    """Results of a service under load."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    megabytes: list[tuple[float, float]] = field(default_factory=list)
    batch_size: float = 1.0

    def percentile(self, part: float) -> float:
        """Return the latency in milliseconds that this fraction of the responses did not exceed."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    def memory(self, start: float, end: float) -> float:
        """Return the largest resident size in megabytes between two points of the run, as fractions of its time."""
        times = [at for at, _ in self.megabytes]
        first, length = times[0], times[-1] - times[0]
        return max(size for at, size in self.megabytes if start <= (at - first) / max(length, 1e-9) <= end)


def make_images() -> list[bytes]:
    """Noise of mixed sizes, as JPEG."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for number in range(IMAGES):
        noise = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        noise.resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def expected_answers(model: str, images: list[bytes]) -> list[Any]:
    """Return the detector's results for each image alone."""
    from transformers_detr import Detector

    detector = Detector.from_pretrained(model, device="cpu")
    return [detector(image, threshold=0).to_dict(integer_pixels=True) for image in images]


def difference(answer: list[Any], expected: list[Any]) -> str | None:
    """Return how a response differs from the expected one; entries at the threshold may be missing."""
    kept = [entry for entry in expected if entry["score"] > THRESHOLD - SCORES]
    if len(kept) != len(answer):
        certain = [entry for entry in kept if entry["score"] > THRESHOLD + SCORES]
        if not len(certain) <= len(answer) <= len(kept):
            return f"{len(answer)} objects instead of {len(kept)}"
        return None
    for one, other in zip(answer, kept, strict=True):
        if one["label"] != other["label"] or abs(one["score"] - other["score"]) > SCORES:
            return f"{one['label']} {one['score']:.4f} instead of {other['label']} {other['score']:.4f}"
        if any(abs(one["box"][side] - at) > PIXELS for side, at in other["box"].items()):
            return f"a box at {one['box']} instead of {other['box']}"
    return None


def put_load(port: int, pid: int, images: list[bytes], expected: list[Any], requests: int, clients: int) -> Run:
    """Send requests from several clients, and check every answer."""
    run, waiting, lock = Run(), queue.SimpleQueue[int](), threading.Lock()
    for number in range(requests):
        waiting.put(number)

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            try:
                index = waiting.get_nowait() % len(images)
            except queue.Empty:
                return
            start = time.perf_counter()
            headers = {"Content-Type": "image/jpeg"}
            connection.request("POST", f"/?threshold={THRESHOLD}", images[index], headers)
            answer = connection.getresponse()
            content = answer.read()
            seconds = time.perf_counter() - start
            problem = difference(json.loads(content), expected[index]) if answer.status == 200 else content.decode()
            with lock:
                run.latencies.append(seconds)
                if problem:
                    run.wrong.append(problem)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    over = threading.Event()
    watch = threading.Thread(target=watch_memory, args=(pid, run, over))
    start = time.perf_counter()
    for thread in [watch, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    run.seconds = time.perf_counter() - start
    over.set()
    watch.join()
    return run


def watch_memory(pid: int, run: Run, over: threading.Event) -> None:
    """Record the resident size of a process during the run (Linux only)."""
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        run.megabytes.append((time.perf_counter(), pages * page / 1e6))
        if over.wait(MEMORY_SECONDS):
            return


@contextmanager
def process(arguments: list[str], threads: int) -> Iterator[tuple[int, int]]:
    """Run a service; yield its port and process id when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, *arguments, "--port", str(port)]
    service = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not is_ready(port):
            if service.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended")
            time.sleep(0.2)
        yield port, service.pid
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(timeout=60)


def is_ready(port: int) -> bool:
    """Return whether a service answers on `/ready`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def mean_batch(port: int) -> float:
    """Return the mean batch size from the metrics of the service."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    lines = answer.read().decode().splitlines() if answer.status == 200 else []
    values = {line.split("{")[0]: float(line.split()[-1]) for line in lines if line.startswith("detr_batch_size_")}
    return values["detr_batch_size_sum"] / values["detr_batch_size_count"] if values else 1.0


def serve_naively(model: str, port: int) -> None:
    """Run a naive service: one thread per request, each calls the pipeline under a lock."""
    from PIL import Image
    from transformers import pipeline

    from transformers_detr import use_for_auto
    from transformers_detr.hub.bundled_model import bundled_folder

    use_for_auto()
    find, lock = pipeline("object-detection", model=bundled_folder(model)), threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer({})

        def do_POST(self) -> None:
            image = Image.open(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))))
            with lock:
                found = find(image, threshold=THRESHOLD)
            self.answer(found)

        def answer(self, document: Any) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()


def tiny_model(folder: str) -> str:
    """Save a small random model that detects something in every image."""
    import torch

    from transformers_detr import DetrConfig, DetrForObjectDetection, DetrImageProcessor

    torch.manual_seed(0)
    names = {0: "cat", 1: "dog", 2: "remote"}
    config = DetrConfig(
        backbone="resnet18", d_model=64, num_queries=20, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=128,
        decoder_ffn_dim=128, encoder_attention_heads=4, decoder_attention_heads=4, id2label=names,
        label2id={name: label for label, name in names.items()},
    )  # fmt: skip
    model = DetrForObjectDetection(config)
    with torch.no_grad():
        model.class_labels_classifier.weight *= 20
        model.get_parameter("bbox_predictor.layers.2.weight").mul_(20)
        model.model.query_position_embeddings.weight *= 10
    model.save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 256, "longest_edge": 448}).save_pretrained(folder)
    return folder


def main() -> int:
    """Compare, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub name or folder; default: a tiny random one")
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--only", choices=["batching", "one by one", "naive"], help="one service; default: all three")
    parser.add_argument("--threads", type=int, default=2, help="of torch, in each service")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--naive", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.naive:
        serve_naively(arguments.naive, arguments.port)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        return compare(arguments, arguments.model or tiny_model(scratch))


def compare(arguments: argparse.Namespace, model: str) -> int:
    """Put the same load on each service in turn."""
    images = make_images()
    expected = expected_answers(model, images)
    command = ["-m", "transformers_detr.cli", "serve", "--model", model, "--queue", str(2 * arguments.clients)]
    sides = {
        "batching": [*command, "--batch-size", str(arguments.batch_size)],
        "one by one": [*command, "--batch-size", "1"],
        "naive": [__file__, "--naive", model],
    }
    report: dict[str, Any] = {"model": arguments.model or "tiny", "requests": arguments.requests}
    report |= {"clients": arguments.clients, "threads": arguments.threads}
    if arguments.only:
        sides = {arguments.only: sides[arguments.only]}
    titles = ["service", "images/s", "p50 ms", "p95 ms", "p99 ms", "mean batch", "largest MB by quarter of the run"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|", flush=True)
    for name, side in sides.items():
        with process(side, arguments.threads) as (port, pid):
            put_load(port, pid, images, expected, 2 * arguments.clients, arguments.clients)  # a warm-up
            run = put_load(port, pid, images, expected, arguments.requests, arguments.clients)
            run.batch_size = mean_batch(port)
        if run.wrong or len(run.latencies) != arguments.requests:
            lost = arguments.requests - len(run.latencies)
            print(f"{name}: {lost} answers lost, {len(run.wrong)} wrong: {run.wrong[:3]}", file=sys.stderr)
            return 1
        report[name] = {
            "images_per_second": round(arguments.requests / run.seconds, 2),
            **{f"p{part}_ms": round(run.percentile(part / 100), 1) for part in (50, 95, 99)},
            "mean_batch": round(run.batch_size, 2),
            "megabytes": [round(run.memory(quarter / 4, (quarter + 1) / 4)) for quarter in range(4)],
        }
        *numbers, memory = report[name].values()
        print("| " + " | ".join(map(str, [name, *numbers, ", ".join(map(str, memory))])) + " |", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
