#include "ops/hierarchical/blocks.h"

namespace hora::hierarchical {
namespace {

constexpr size_t kLine = 64;  // a multiple of every element's width

}  // namespace

Blocks::Blocks(const Layout& layout)
    : layout_(layout),
      block_(layout.hosts),
      bytes_(layout.host_of.size()),
      begin_(bytes_.size()),
      place_(bytes_.size()) {}

void Blocks::assign(std::span<const size_t> amounts, size_t width) {
  total_ = 0;
  std::fill(block_.begin(), block_.end(), 0);
  for (size_t member = 0; member < amounts.size(); ++member) {
    size_t& block = block_[layout_.host_of[member]];
    bytes_[member] = amounts[member] * width;
    begin_[member] = total_;
    place_[member] = block;
    total_ += bytes_[member];
    block += bytes_[member];
  }
}

Range Blocks::piece(size_t host, size_t chunk, size_t column) const {
  const size_t block = block_[host], pieces = chunks_ * layout_.columns;
  const size_t each = (block + pieces * kLine - 1) / (pieces * kLine) * kLine;
  const size_t begin = std::min(block, each * (chunk * layout_.columns + column));
  return {begin, std::min(block, begin + each)};
}

Range Blocks::chunk(size_t host, size_t chunk) const {
  return {piece(host, chunk, 0).begin, piece(host, chunk, layout_.columns - 1).end};
}

size_t Blocks::across(size_t chunk, size_t column) const {
  size_t bytes = 0;
  for (size_t host = 0; host < layout_.hosts; ++host) bytes += piece(host, chunk, column).bytes();
  return bytes;
}

}  // namespace hora::hierarchical
