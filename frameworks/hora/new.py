"""`hora new compressor NAME`: the beginning of a compressor, complete and tested, to be changed.

With `--python` two files in the current folder: a class of hora.compression and its test. Without
it, in a checkout of Hora, a stage in C++ and its test; the conformance suite finds it by itself.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys

PYTHON_SOURCE = '''\
"""{Name}: one line that says what is sent, and whose idea it is (authors, year)."""

import numpy as np

from hora.compression import Compressor, Step


class {Name}(Compressor):
    """The largest magnitudes, as bytes of `levels` levels each, with their indices."""

    contractive = True
    sparse = True

    def __init__(self, ratio: float = 0.05, levels: int = 127):
        if not (0 < ratio <= 1 and 1 <= levels <= 127):
            raise ValueError("ratio must lie between 0 and 1, levels between 1 and 127")
        self.ratio = ratio
        self.levels = levels

    def kept(self, count: int) -> int:
        """How many elements are sent."""
        return max(1, round(self.ratio * count))

    # payload = float32 scale, int32 indices[kept], int8 codes[kept]

    def payload_bytes(self, count: int) -> int:
        return 4 + 5 * self.kept(count)

    def encode(self, values: np.ndarray, payload: np.ndarray, step: Step) -> None:
        kept = self.kept(len(values))
        # A stable sort: ties go to the lower index, so that runs can be repeated.
        indices = np.sort(np.argsort(-np.abs(values), kind="stable")[:kept])
        scale = max(np.abs(values).max() / self.levels, np.finfo(np.float32).tiny)
        payload[:4].view(np.float32)[0] = scale
        payload[4 : 4 + 4 * kept].view(np.int32)[:] = indices
        payload[4 + 4 * kept :].view(np.int8)[:] = np.rint(values[indices] / scale)

    def decode(self, payload: np.ndarray, values: np.ndarray, step: Step) -> None:
        kept = self.kept(len(values))
        scale = payload[:4].view(np.float32)[0]
        indices = payload[4 : 4 + 4 * kept].view(np.int32)
        if indices.min() < 0 or indices.max() >= len(values):
            raise ValueError("an index is beyond the tensor")
        values[indices] = scale * payload[4 + 4 * kept :].view(np.int8).astype(np.float32)
'''

PYTHON_TEST = '''\
"""{Name} keeps the laws of hora.testing, and sends what it says."""

import numpy as np
from {name} import {Name}

from hora.compression import Step
from hora.testing import check_compressor


def test_it_keeps_the_laws():
    report = check_compressor({Name})
    assert "contractive means contractive" in report.held


def test_the_largest_elements_come_back():
    compressor = {Name}(ratio=0.5)
    values = np.float32([0, -4, 1, 127])
    payload = np.zeros(compressor.payload_bytes(4), np.uint8)
    step = Step(number=0, rank=0, size=1, second=False, seed=1, tensor=1)
    compressor.encode(values, payload, step)
    decoded = np.zeros(4, np.float32)
    compressor.decode(payload, decoded, step)
    assert decoded.tolist() == [0, -4, 0, 127]
'''

CPP_SOURCE = """\
// `{name}`: one line that says what is sent, and whose idea it is (authors, year).
//
// Here: a byte for each element, and for each block the largest magnitude.
//
//   payload = f32 scales[blocks], i8 codes[count]

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "compressors/stage.h"

namespace hora {{
namespace {{

class {Name} final : public Codec {{
 public:
  {Name}(size_t block, Binding& binding)
      : Codec(binding.extent), block_(block), memory_(binding.memory) {{}}

  Traits traits() const override {{
    const bool conserves = memory_.conserves();
    return {{.contractive = true, .conserves = conserves}};
  }}
  size_t granule() const override {{ return block_; }}
  size_t payload_bytes(size_t count) const override {{ return 4 * blocks(count) + count; }}
  std::vector<SlabSpec> slabs(size_t count) const override {{ return memory_.slabs(count); }}

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {{
    const Source source = source_of(turn, piece, state, memory_);
    auto* codes = reinterpret_cast<int8_t*>(payload + 4 * blocks(piece.count));
    float* asked = turn.workspace.floats(Workspace::kTransform, block_);
    for (size_t begin = 0; begin < piece.count; begin += block_) {{
      const size_t n = std::min(block_, piece.count - begin);
      float* const residual = source.residual ? source.residual + begin : nullptr;
      const float* const input = source.input + begin;
      const Source here{{input, residual, source.input_scale, source.residual_scale}};
      read(here, n, asked);
      float scale = float_of(kPoison);
      std::fill_n(codes + begin, n, int8_t{{0}});
      if (!poisoned({{asked}}, n)) {{
        scale = code(asked, n, codes + begin);
        if (residual) keep(asked, codes + begin, scale, n, residual);
      }}
      std::memcpy(payload + 4 * (begin / block_), &scale, sizeof(scale));
    }}
  }}

  Status decode_add(const Turn&, std::span<const std::byte> payload, uint64_t /*first*/,
                    std::span<float> sum, float scale) const override {{
    if (payload.size() != payload_bytes(sum.size())) {{
      return Status(Code::kCorrupt,
                    fmt::format("{name}: payload has {{}} bytes for {{}} elements, not {{}}",
                                payload.size(), sum.size(), payload_bytes(sum.size())));
    }}
    const auto* scales = reinterpret_cast<const float*>(payload.data());
    for (size_t b = 0; b < blocks(sum.size()); ++b) {{  // before the first addition
      if (!is_finite(scales[b]) && bits_of(scales[b]) != kPoison)
        return Status(Code::kCorrupt, "{name}: a scale is no number");
    }}
    const auto* codes = reinterpret_cast<const int8_t*>(payload.data() + 4 * blocks(sum.size()));
    for (size_t i = 0; i < sum.size(); ++i)
      sum[i] += scale * (scales[i / block_] * static_cast<float>(codes[i]));
    return {{}};
  }}

 private:
  size_t blocks(size_t count) const {{ return (count + block_ - 1) / block_; }}

  /// Writes the codes, and gives their scale.
  static float code(const float* values, size_t count, int8_t* codes) {{
    constexpr float kLevels = 127;
    float most = 0;
    for (size_t i = 0; i < count; ++i) most = std::max(most, std::fabs(values[i]));
    const float scale = most / kLevels;
    for (size_t i = 0; i < count && scale > 0; ++i)
      codes[i] =
          static_cast<int8_t>(std::clamp(std::nearbyintf(values[i] / scale), -kLevels, kLevels));
    return scale;
  }}

  /// What decoding will not give is owed.
  static void keep(const float* asked, const int8_t* codes, float scale, size_t count,
                   float* residual) {{
    for (size_t i = 0; i < count; ++i)
      residual[i] = asked[i] - scale * static_cast<float>(codes[i]);
  }}

  const size_t block_;
  const Memory memory_;
}};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {{
  const size_t block = keys.count("block", 32, size_t{{1}} << 20);
  if (binding.inner || binding.code) keys.refuse("nothing can follow it");
  if (!keys.refused().empty()) return nullptr;
  return std::make_unique<{Name}>(block, binding);
}}

const RegisterStage {name}({{.name = "{name}",
                               .order = Order::kQuantize,
                               .what = "a byte for each element (authors, year)",
                               .keys = {{{{"block", "512", "elements that share a scale"}}}},
                               .make = make}});

}}  // namespace
}}  // namespace hora
"""

CPP_TEST = """\
// Goal: `{name}` sends what it says. What all codecs promise, conformance_test.cc tests.

#include "tests/compressors/trial.h"

namespace hora {{
namespace {{

TEST({Name}, RoundsToTheNearestLevelAndKeepsTheRest) {{
  Trial run("{name}", 4);
  const std::vector<float> g = {{0.25f, -4, 1, 127}};
  EXPECT_EQ(run.decode(run.encode(g)), (std::vector<float>{{0, -4, 1, 127}}));
  EXPECT_EQ(run.residual(), (std::vector<float>{{0.25f, 0, 0, 0}}));
}}

}}  // namespace
}}  // namespace hora
"""

PYTHON_NEXT = """\
  python -m pytest test_{name}.py
  hora bench compressor {name}.py:{Name}
"""

CPP_NEXT = """\
  make format
  cmake --preset dev && cmake --build --preset dev
  build/dev/tests/compressors/compressors_test --gtest_filter='*{name}*:{Name}.*'
  build/dev/launcher/hora bench compressor {name}

Before it is committed, its line in docs/compressors.md, and its bytes in golden_test.cc:

  build/dev/launcher/hora compress list --markdown > docs/compressors.md
  build/dev/tests/compressors/compressors_test --gtest_filter='Golden.*'
"""


def files_for(name: str, python: bool) -> dict[str, str]:
    """Path and text of each file of a compressor of that name."""
    words = {"name": name, "Name": name.title().replace("_", "")}
    if python:
        sources = {f"{name}.py": PYTHON_SOURCE, f"test_{name}.py": PYTHON_TEST}
        return {path: _filled(text, words) for path, text in sources.items()}
    sources = {f"compressors/{name}.cc": CPP_SOURCE, f"tests/compressors/{name}_test.cc": CPP_TEST}
    return {path: text.format(**words) for path, text in sources.items()}


def _filled(text: str, words: dict[str, str]) -> str:
    """Braces other than those of the words are Python's."""
    for word, value in words.items():
        text = text.replace("{" + word + "}", value)
    return text


def write(name: str, python: bool, folder: pathlib.Path) -> str:
    """Writes the files and gives what to do next. Errors: ValueError says why none was written."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name: small letters, digits and '_', a letter first")
    if not python and not (folder / "compressors" / "stage.h").exists():
        raise ValueError(
            "compressors in C++ are part of Hora: go to a checkout of it, or use --python"
        )
    files = files_for(name, python)
    for path in files:
        if (folder / path).exists():
            raise ValueError(f"{path} exists; nothing was written")
    for path, text in files.items():
        (folder / path).write_text(text)
    words = {"name": name, "Name": name.title().replace("_", "")}
    following = (PYTHON_NEXT if python else CPP_NEXT).format(**words)
    return f"Written: {', '.join(files)}. Next:\n\n{following}\ndocs/new_compressor.md leads on.\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="hora new", description=__doc__)
    parser.add_argument("what", choices=["compressor"])
    parser.add_argument("name", help="in small letters, as chains will call it")
    parser.add_argument("--python", action="store_true", help="in Python, in this folder")
    options = parser.parse_args()
    try:
        print(write(options.name, options.python, pathlib.Path()), end="")
    except (ValueError, OSError) as error:
        print(f"hora new: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
