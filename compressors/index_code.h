#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace hora {

/// How a sparse payload says which elements it has: a stage of its own, to the right of a
/// selection. Its room depends on counts alone, so it is what the worst choice takes. Immutable.
class IndexCode {
 public:
  virtual ~IndexCode() = default;

  /// Room for at most `most` of `count` elements; a multiple of 4.
  virtual size_t bytes(size_t count, size_t most) const = 0;

  /// Writes ascending offsets below `count`. `to` has bytes() zeros.
  virtual void write(std::span<const uint32_t> chosen, size_t count, std::byte* to) const = 0;

  /// Reads as many offsets as `chosen` has. False: write() cannot have written this. Whether they
  /// ascend and lie below `count` is the caller's to check.
  [[nodiscard]] virtual bool read(std::span<const std::byte> from, size_t count,
                                  std::span<uint32_t> chosen) const = 0;
};

/// The one that selections take when the chain names none: 16 bits for each index.
std::unique_ptr<IndexCode> make_u16();

}  // namespace hora
