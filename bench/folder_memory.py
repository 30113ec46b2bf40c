"""Memory of a process that packs a folder of images, and of one that reads all of them.

`python -m bench.folder_memory` makes folders of 500, 5,000 and 50,000 JPEGs (noise; many names of a
few files), packs each at 160x160, reads every image in batches of 64 in an order drawn at random,
and prints the peak resident set of both processes. It takes 4 GB below --where, which are freed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

COUNTS = (500, 5_000, 50_000)
FILES = 500  # that differ
CLASSES = 10
BATCH = 64

PACK = """
import json, sys, time
from pathlib import Path
from npnet.data.packing import open_folder
from npnet.machine.telemetry import peak_rss_bytes
start = time.perf_counter()
images = open_folder(Path(sys.argv[1]), int(sys.argv[2]))
print(json.dumps([peak_rss_bytes(), time.perf_counter() - start]))
"""
READ = f"""
import json, sys, time
import numpy as np
from pathlib import Path
from npnet.data.packing import open_folder
from npnet.machine.telemetry import peak_rss_bytes
start = time.perf_counter()
images = open_folder(Path(sys.argv[1]), int(sys.argv[2]))
opened = time.perf_counter() - start
order = np.random.default_rng(0).permutation(images.size("train"))
for first in range(0, len(order), {BATCH}):
    images.read("train", order[first : first + {BATCH}])
print(json.dumps([peak_rss_bytes(), opened, time.perf_counter() - start - opened]))
"""


def make_folder(root: Path, count: int, size: int) -> None:
    import numpy as np
    from PIL import Image

    rng, files = np.random.default_rng(0), []
    (root / "made").mkdir(parents=True)
    for number in range(FILES):
        files.append(root / "made" / f"{number}.jpg")
        coarse = rng.integers(0, 256, (20, 25, 3), np.uint8)
        Image.fromarray(coarse).resize((size * 5 // 4, size)).save(files[-1], quality=90)
    for name in range(CLASSES):
        (root / "images" / f"class-{name}").mkdir(parents=True)
    for number in range(count):
        place = root / "images" / f"class-{number % CLASSES}" / f"image-{number:06}.jpg"
        os.link(files[number % FILES], place)


def measured(script: str, root: Path, size: int) -> list[float]:
    command = [sys.executable, "-c", script, str(root / "images"), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    numbers: list[float] = json.loads(done.stdout)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--where", type=Path)
    arguments = parser.parse_args()
    print(
        "| images | packed, MB | packing: peak RSS, MB | images/s | reading: peak RSS, MB "
        "| to open, s | images/s |"
    )
    print("|---|---|---|---|---|---|---|")
    for count in arguments.counts:
        with tempfile.TemporaryDirectory(dir=arguments.where) as folder:
            root, size = Path(folder), arguments.size
            make_folder(root, count, size)
            packing, seconds = measured(PACK, root, size)
            packed = sum(path.stat().st_size for path in (root / "images").glob(".npnet-*"))
            reading, opening, reading_seconds = measured(READ, root, size)
        print(
            f"| {count:,} | {packed / 1e6:,.0f} | {packing / 1e6:.1f} | {count / seconds:.0f} | "
            f"{reading / 1e6:.1f} | {opening:.2f} | {count / reading_seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
