#include "compressors/merging.h"

#include <algorithm>

#include <fmt/format.h>

namespace hora {
namespace {

size_t divide_up(size_t a, size_t b) {
  return (a + b - 1) / b;
}

/// The largest divisor of n up to kWidest, or if that is 1 the smallest there is.
int degree_of(int n) {
  for (int d = std::min(n, Butterfly::kWidest); d > 1; --d)
    if (n % d == 0) return d;
  for (int d = Butterfly::kWidest + 1; d * d <= n; ++d)
    if (n % d == 0) return d;
  return n;
}

Merging::Room room(size_t length, size_t most) {
  return {length, std::min(most, length), 2 * most >= length};
}

}  // namespace

Butterfly::Butterfly(int ranks, std::span<const int> wanted) {
  int64_t product = 1;
  for (const int degree : wanted) product *= degree;
  if (!wanted.empty() && wanted.size() <= kMost && product == ranks) {
    for (const int degree : wanted) list_[static_cast<size_t>(layers_++)].degree = degree;
  } else {
    choose_degrees(ranks);
  }
  for (int i = 0, stride = ranks; i < layers_; ++i) {
    Layer& layer = list_[static_cast<size_t>(i)];
    layer.stride = stride /= layer.degree;
  }
}

void Butterfly::choose_degrees(int ranks) {
  for (int left = ranks; left > 1; ++layers_) {
    HORA_CHECK(layers_ < kMost, fmt::format("{} ranks need a butterfly too deep", ranks));
    list_[static_cast<size_t>(layers_)].degree = degree_of(left);
    left /= degree_of(left);
  }
  // Wide layers first: later ones, where more is known of the same elements, have less to send.
  std::sort(list_.begin(), list_.begin() + layers_,
            [](const Layer& a, const Layer& b) { return a.degree > b.degree; });
}

Merging::Merging(const Codec& codec, size_t count, int ranks, std::span<const int> degrees)
    : butterfly_(ranks, degrees),
      ranks_(static_cast<uint32_t>(ranks)),
      salt_(static_cast<uint32_t>(codec.extent().id)),
      length_(divide_up(divide_up(count, kRun), ranks_) * kRun) {
  const size_t sent = codec.most_sent(count);
  held_[0] = sent;
  for (int i = 0; i < butterfly_.layers(); ++i) {
    const Butterfly::Layer& layer = butterfly_.layer(i);
    const auto degree = static_cast<size_t>(layer.degree), at = static_cast<size_t>(i);
    const size_t share = divide_up(kUneven * sent, degree) + kSpare;
    in_[at] = room(length_ * static_cast<size_t>(layer.stride), std::min(held_[at], share));
    const Room& here = in_[at];
    held_[at + 1] = here.dense ? here.length : std::min(here.length, degree * here.most);
  }
  const size_t share = divide_up(std::min<size_t>(ranks_, kUnion) * sent, ranks_) + kSpare;
  out_ = room(length_, std::min(held(butterfly_.layers()), share));
}

/// By how many owners a group of runs, one for each owner, is turned.
uint32_t Merging::turned(uint32_t group) const {
  uint32_t h = group * 0x9E3779B9u + salt_;
  h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
  h = (h ^ (h >> 13)) * 0xC2B2AE35u;
  return (h ^ (h >> 16)) % ranks_;
}

uint32_t Merging::place(uint32_t element) const {
  const uint32_t run = element / kRun, group = run / ranks_;
  const uint32_t owner = (run % ranks_ + turned(group)) % ranks_;
  return owner * static_cast<uint32_t>(length_) + group * kRun + element % kRun;
}

size_t Merging::element(uint32_t place) const {
  const auto owner = static_cast<uint32_t>(place / length_);
  const auto within = static_cast<uint32_t>(place % length_);
  const uint32_t group = within / kRun;
  const uint32_t run = (owner + ranks_ - turned(group)) % ranks_;
  return (size_t{group} * ranks_ + run) * kRun + within % kRun;
}

uint64_t Merging::bytes() const {
  uint64_t total = uint64_t{out_.bytes()} * (ranks_ - 1);
  for (int i = 0; i < butterfly_.layers(); ++i)
    total += uint64_t{in(i).bytes()} * static_cast<uint64_t>(butterfly_.layer(i).degree - 1);
  return total;
}

}  // namespace hora
