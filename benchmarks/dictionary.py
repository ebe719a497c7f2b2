"""Train the dictionary that responses are compressed with: `python benchmarks/dictionary.py OUT`.

A response is small, and half of it is an envelope that all have in common; zstd packs such text well only if it knows
it beforehand. The samples are messages of the dialects that are spoken (ids and figures by chance), around sentences of
this project's own pages and around typed answers. The same pages give the same dictionary. A new one gets a number of
its own: journals keep theirs, so none is ever lost.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

BYTES = 8192
SAMPLES = 8000
ALPHABET = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MODELS = ("claude-haiku-4-5-20251001", "claude-sonnet-5-5", "claude-opus-5-5")
OTHERS = ("gpt-5-mini", "llama-4-maverick", "qwen3-32b", "deepseek-chat")
ROOT = Path(__file__).parent.parent


def sentences() -> list[str]:
    """Plain sentences of README and docs."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = " ".join(re.sub(r"```.*?```|[#|>*`\[\]()]", " ", page.read_text(), flags=re.DOTALL) for page in pages)
    found = re.split(r"(?<=[.:;])\s+", re.sub(r"\s+", " ", text))
    return [sentence for sentence in found if 20 < len(sentence) < 300]


class Samples:
    """Responses by chance."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._sentences = sentences()

    def __iter__(self) -> Iterator[bytes]:
        kinds = (self._message, self._message, self._message, self._resold, self._completion)
        for nth in range(SAMPLES):
            value = kinds[nth % len(kinds)]()
            yield json.dumps(value, separators=(",", ":") if nth % 4 else None).encode()

    def _id(self, prefix: str, length: int = 24) -> str:
        return prefix + "".join(self._chance.choices(ALPHABET, k=length))

    def _text(self) -> str:
        if self._chance.random() < 0.3:
            label = self._chance.choice(["anomaly", "normal", "unclear"])
            reason = self._chance.choice(self._sentences)
            return json.dumps({"label": label, "reason": reason, "confidence": self._chance.random()})
        return " ".join(self._chance.choices(self._sentences, k=self._chance.randint(1, 4)))

    def _message(self) -> dict[str, Any]:
        input_tokens, output_tokens = self._chance.randint(10, 3000), self._chance.randint(1, 900)
        return {
            "model": self._chance.choice(MODELS),
            "id": self._id("msg_01"),
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": self._text()}],
            "stop_reason": self._chance.choice(["end_turn", "end_turn", "max_tokens"]),
            "stop_sequence": None,
            "stop_details": None,
            "usage": {
                "input_tokens": input_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": self._chance.choice([0, 0, 1024]),
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                "output_tokens": output_tokens,
                "service_tier": "standard",
                "inference_geo": "not_available",
            },
        }

    def _resold(self) -> dict[str, Any]:
        input_tokens, output_tokens = self._chance.randint(10, 3000), self._chance.randint(1, 900)
        return {
            "id": self._id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": self._chance.choice(MODELS + OTHERS),
            "content": [{"type": "text", "text": self._text()}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens},
            "meta": {
                "usage": {"credits_used": self._chance.randint(10, 9999), "usd_spent": self._chance.random() / 100}
            },
        }

    def _completion(self) -> dict[str, Any]:
        asked, answered = self._chance.randint(10, 3000), self._chance.randint(1, 900)
        message: dict[str, Any] = {"role": "assistant", "content": self._text(), "refusal": None, "annotations": []}
        return {
            "id": self._id("chatcmpl-"),
            "object": "chat.completion",
            "created": 1_790_000_000 + self._chance.randint(0, 10**7),
            "model": self._chance.choice(OTHERS),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": asked,
                "completion_tokens": answered,
                "total_tokens": asked + answered,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            },
            "system_fingerprint": self._id("fp_", 10),
        }


def main(out: Path) -> None:
    """Train it, write it, and say what it does to responses that it was not trained on."""
    words = zstandard.train_dictionary(BYTES, list(Samples(1)), level=3)
    out.write_bytes(words.as_bytes())
    fresh = list(Samples(2))
    alone, with_it = zstandard.ZstdCompressor(level=3), zstandard.ZstdCompressor(level=3, dict_data=words)
    print(f"dictionary {words.dict_id()}: {len(words.as_bytes()):,} bytes")
    for name, packed in (
        ("as they are", fresh),
        ("zstd", [alone.compress(raw) for raw in fresh]),
        ("zstd with it", [with_it.compress(raw) for raw in fresh]),
    ):
        print(f"  {name}: {statistics.mean(map(len, packed)):.0f} bytes a response")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
