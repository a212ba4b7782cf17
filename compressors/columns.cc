// `columns`: whole columns of a matrix, those with the largest sums of magnitudes; ties to the
// lower number. For gradients that are zero in most columns, as of layers that were trained with
// the few largest outputs only.
//
//   indices = u32 number[columns sent], ascending; values follow row by row
//
// meProp, Sun et al., ICML 2017: there back-propagation computes no other columns. The selection
// here is ours and finds them, whoever made them. A column is what the last dimensions share;
// `axis=0` takes what the first dimension has, which is where PyTorch's linear layers keep outputs.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "compressors/largest.h"
#include "compressors/sparse.h"

namespace hora {
namespace {

/// A matrix as columns, or as rows, of equal length.
struct Lines {
  size_t rows, width;
  bool across;  ///< lines are rows

  size_t lines() const { return across ? rows : width; }
  size_t length() const { return across ? width : rows; }
  /// Calls visit(element) for the elements of `chosen` lines, ascending.
  template <class Visit>
  void each(std::span<const uint32_t> chosen, Visit visit) const {
    if (across) {
      for (const uint32_t line : chosen)
        for (size_t c = 0; c < width; ++c) visit(line * width + c);
    } else {
      for (size_t r = 0; r < rows; ++r)
        for (const uint32_t line : chosen) visit(r * width + line);
    }
  }
};

class Columns final : public Selector {
 public:
  Columns(double ratio, const Lines& lines, size_t granule)
      : ratio_(ratio), lines_(lines), granule_(granule) {}

  size_t granule() const override { return granule_; }
  size_t most(size_t count) const override { return std::min(kept() * lines_.length(), count); }
  bool contractive() const override { return true; }

  size_t choose(Workspace& workspace, Source& source, size_t count,
                uint32_t* chosen) const override {
    if (!settle(source, count)) return kPoisoned;
    const size_t all = lines_.lines(), kept = this->kept();
    float* sums = workspace.floats(Workspace::kTransform, all + kept + 1);
    auto* numbers = reinterpret_cast<uint32_t*>(sums + all);
    std::fill_n(sums, all, 0.0f);
    for (size_t i = 0; i < count; ++i)
      sums[lines_.across ? i / lines_.width : i % lines_.width] += std::fabs(source[i]);
    Source largest{sums};
    if (choose_largest(workspace, largest, all, kept, 0, numbers) == kPoisoned) return kPoisoned;
    size_t used = 0;
    lines_.each({numbers, kept}, [&](size_t i) { chosen[used++] = static_cast<uint32_t>(i); });
    return used;
  }

 private:
  size_t kept() const {
    const auto wanted =
        static_cast<size_t>(std::ceil(ratio_ * static_cast<double>(lines_.lines())));
    return std::clamp<size_t>(wanted, 1, std::max<size_t>(lines_.lines(), 1));
  }

  const double ratio_;
  const Lines lines_;
  const size_t granule_;
};

class Numbers final : public IndexCode {
 public:
  explicit Numbers(const Lines& lines) : lines_(lines) {}

  size_t bytes(size_t, size_t most) const override { return 4 * lines_of(most); }

  void write(std::span<const uint32_t> chosen, size_t, std::byte* to) const override {
    auto* numbers = reinterpret_cast<uint32_t*>(to);
    for (size_t j = 0; j < lines_of(chosen.size()); ++j) {
      const uint32_t first = chosen[lines_.across ? j * lines_.length() : j];
      numbers[j] = lines_.across ? first / static_cast<uint32_t>(lines_.width) : first;
    }
  }

  bool read(std::span<const std::byte> from, size_t, std::span<uint32_t> chosen) const override {
    const size_t sent = lines_of(chosen.size());
    if (sent * lines_.length() != chosen.size()) return false;
    const std::span<const uint32_t> numbers(reinterpret_cast<const uint32_t*>(from.data()), sent);
    for (const uint32_t number : numbers) {
      if (number >= lines_.lines()) return false;
    }
    size_t j = 0;
    lines_.each(numbers, [&](size_t i) { chosen[j++] = static_cast<uint32_t>(i); });
    return true;
  }

 private:
  size_t lines_of(size_t elements) const {
    return (elements + lines_.length() - 1) / lines_.length();
  }

  const Lines lines_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  const double ratio = keys.number("ratio", 1e-9, 1);
  const size_t axis = keys.count("axis", 0, 1);
  if (binding.code) keys.refuse("no index code can follow: columns have numbers");
  if (!keys.refused().empty()) return nullptr;
  const Extent& extent = binding.extent;
  const Lines lines{std::max<size_t>(extent.rows, 1), std::max<size_t>(extent.columns, 1),
                    axis == 0};
  binding.code = std::make_unique<Numbers>(lines);
  return make_sparse(std::make_unique<Columns>(ratio, lines, whole_granule(extent)), binding);
}

const RegisterStage columns(
    {.name = "columns",
     .order = Order::kSelect,
     .what = "whole columns of a matrix, the largest (for meProp, Sun et al. 2017; our selection)",
     .keys = {{"ratio", "0.04", "share of the columns that is sent"},
              {"axis", "1", "1: columns; 0: rows, runs of the last dimensions"}},
     .make = make});

}  // namespace
}  // namespace hora
