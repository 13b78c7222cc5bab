"""Pictures to a film, by ffmpeg: H.264 as every browser and player takes it, at a steady rate, its index at the front."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.video.terminal import end

WIDTH, HEIGHT = 1280, 720
PICTURES_PER_S = 10
ENCODE_WITHIN_S = 1800.0
PROBE_WITHIN_S = 60.0
BYTES_MAX = 10_000_000


class FilmError(Exception):
    """What ffmpeg said."""


@dataclass(frozen=True)
class Tools:
    """Where ffmpeg is; ffprobe comes with it."""

    ffmpeg: Path

    @property
    def ffprobe(self) -> Path:
        return self.ffmpeg.with_name("ffprobe")


async def encode(shots: Sequence[tuple[Path, float]], out: Path, tools: Tools) -> dict[str, Any]:
    """
    Write ``out``, of pictures and how long each stands, and say what a player finds in it. Whole and small enough, or ``FilmError``, and
    then whatever was there before still is.
    """
    listed = out.with_suffix(".ffconcat")
    unfinished = out.with_suffix(".unfinished.mp4")
    rows = ["ffconcat version 1.0"]
    for path, seconds in shots:
        quoted = str(path).replace("'", r"'\''")
        rows += [f"file '{quoted}'", f"duration {seconds:.3f}"]
    rows.append(rows[-2])  # or the last one's duration is not heeded
    whole = sum(seconds for _, seconds in shots)
    # Colours as players take them for granted at this size; without it reds of text come out brown.
    filters = f"fps={PICTURES_PER_S},scale={WIDTH}:{HEIGHT}:out_color_matrix=bt709:out_range=tv,format=yuv420p"
    try:
        listed.write_text("\n".join(rows) + "\n", encoding="utf-8")
        await _run(
            [
                *(str(tools.ffmpeg), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
                *("-f", "concat", "-safe", "0", "-i", str(listed), "-t", f"{whole:.3f}"),
                *("-vf", filters),
                *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"),
                *("-c:v", "libx264", "-profile:v", "high", "-preset", "fast", "-tune", "animation", "-crf", "23"),
                *("-g", str(5 * PICTURES_PER_S), "-movflags", "+faststart", "-an", str(unfinished)),
            ],
            ENCODE_WITHIN_S,
        )
        found = await probe(unfinished, tools)
        if found["bytes"] > BYTES_MAX:
            raise FilmError(f"the film has {found['bytes']:,} bytes; allowed: {BYTES_MAX:,}")
        unfinished.replace(out)
    finally:
        listed.unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)
    return found


async def probe(film: Path, tools: Tools) -> dict[str, Any]:
    """What a player would find: codec, size, pixels, seconds, bytes. Raises ``FilmError``."""
    said = await _run(
        [
            *(str(tools.ffprobe), "-v", "error", "-select_streams", "v:0", "-of", "json"),
            *("-show_entries", "stream=codec_name,width,height,pix_fmt,avg_frame_rate:format=duration,size", str(film)),
        ],
        PROBE_WITHIN_S,
    )
    document = json.loads(said)
    [stream] = document["streams"]
    return {
        "codec": stream["codec_name"],
        "width": stream["width"],
        "height": stream["height"],
        "pixels": stream["pix_fmt"],
        "rate": stream["avg_frame_rate"],
        "seconds": float(document["format"]["duration"]),
        "bytes": int(document["format"]["size"]),
    }


async def _run(command: list[str], within_s: float) -> str:
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise FilmError(f"{command[0]} cannot be run: {error}. Fix: apt-get install ffmpeg (as root)") from error
    try:
        async with asyncio.timeout(within_s):
            said, trouble = await child.communicate()
    except TimeoutError:
        raise FilmError(f"{command[0]} took longer than {within_s:.0f} s") from None
    finally:
        await end(child)
    if child.returncode != 0:
        first = trouble.decode(errors="replace").strip()[:1000]  # of its words: they are the cause
        raise FilmError(f"{command[0]} ended with {child.returncode}: {first}")
    return said.decode()
